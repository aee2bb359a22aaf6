"""What the reward callback logs."""

from types import SimpleNamespace
from typing import Any

from lambda_grpo_pl.callbacks import RewardCallback
from lambda_grpo_pl.rewards import SuiteScores
from tests.scored import scored_batch


def test_failures_and_missing_answers_are_shares_as_in_evaluation() -> None:
    logged: dict[str, Any] = {}
    module: Any = SimpleNamespace(log_dict=lambda metrics, **_: logged.update(metrics))
    scores = SuiteScores([], {}, [], [], num_failed=4, num_no_answer=8, extras={"mine/words": 3.0})
    RewardCallback()._log(module, scored_batch(0), scores)
    assert (logged["reward/verifier_failed"], logged["reward/no_answer"]) == (4 / 16, 8 / 16)
    assert logged["reward/mine/words"] == 3.0

"""Guards warn once about signs that a run goes wrong, and keep what is not finite away from the weights."""

import csv
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lambda_grpo_pl.callbacks.guard_rules import (
    PATIENCE,
    REPEATED,
    RULES,
    START,
    WINDOW,
    Evaluated,
    History,
    describe,
    find_broken,
    find_nonfinite,
    repeated_share,
)
from lambda_grpo_pl.callbacks.guards import Guards
from lambda_grpo_pl.cli.replay import main as replay
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.store import RolloutStore
from lambda_grpo_pl.sampling import TransformersSampler
from tests.integration.runs import ROOT, run

HEALTHY = {
    "policy/gradient_norm": 1.0,
    "policy/loss": 0.0,
    "policy/entropy": 1.0,
    "policy/reference_kl": 0.01,
    "policy/shift_from_old": 0.0,
    "preference/at_bound": 0.0,
    "preference/ess": 0.9,
    "sampler/gap_mean": 0.001,
    "sampler/staleness": 0.0,
    "reward/verifier_failed": 0.0,
    "reward/zero_variance_groups": 0.5,
    "reward/mean": 0.5,
    "response/truncated": 0.0,
    "response/length": 100.0,
    REPEATED: 0.0,
}
FALLING = [Evaluated(0.5, 0.3), Evaluated(0.4, 0.4), Evaluated(0.3, 0.5)]
BROKEN: dict[str, tuple[int, dict[str, float]]] = {
    "gradient_spike": (1, {"policy/gradient_norm": 11.0}),
    "kl_spike": (1, {"policy/reference_kl": 0.2}),
    "entropy_collapse": (START, {"policy/entropy": 0.05}),
    "lambda_at_bound": (1, {"preference/at_bound": 1.0}),
    "low_ess": (PATIENCE, {"preference/ess": 0.4}),
    "sampler_gap": (PATIENCE, {"sampler/gap_mean": 0.2}),
    "verifier_failures": (PATIENCE, {"reward/verifier_failed": 0.2}),
    "truncation": (PATIENCE, {"response/truncated": 0.6}),
    "flat_groups": (PATIENCE, {"reward/zero_variance_groups": 1.0}),
    "length_runaway": (START, {"response/length": 205.0}),
    "repeated_answer": (PATIENCE, {REPEATED: 0.6}),
}
"""Guard → for how many rollouts in a row what has to be logged."""


def history(num_broken: int, change: dict[str, float], evaluations: tuple[Evaluated, ...] = ()) -> History:
    """A healthy run whose last rollouts were not."""
    rollouts = [HEALTHY] * (2 * WINDOW) + [HEALTHY | change] * num_broken
    return History(rollouts[:START], rollouts[-WINDOW:], evaluations)


def test_a_healthy_run_is_silent_from_its_first_rollout_on() -> None:
    rollouts = [HEALTHY] * 50
    for number in range(51):
        assert find_broken(History(rollouts[: min(number, START)], rollouts[:number][-WINDOW:])) == []


@pytest.mark.parametrize("name", BROKEN)
def test_each_guard_sees_its_sign_and_no_other(name: str) -> None:
    num_rollouts, change = BROKEN[name]
    assert find_broken(history(num_rollouts, change)) == [name]
    assert find_broken(history(num_rollouts - 1, change)) == []


def test_a_rising_reward_with_a_falling_score_is_a_sign_of_hacking() -> None:
    assert find_broken(history(0, {}, tuple(FALLING))) == ["reward_hacking"]
    assert find_broken(history(0, {}, tuple(FALLING[:2]))) == []
    assert find_broken(history(0, {}, (*FALLING[:2], Evaluated(0.45, 0.5)))) == []
    assert find_broken(history(0, {}, (*FALLING[:2], Evaluated(0.3, 0.35)))) == []


def test_long_responses_that_earn_more_are_no_sign() -> None:
    assert find_broken(history(START, {"response/length": 250.0, "reward/mean": 0.6})) == []


def test_stale_rollouts_may_differ_from_the_trainer() -> None:
    assert find_broken(history(PATIENCE, {"sampler/gap_mean": 0.2, "sampler/staleness": 1.0})) == []


def test_every_guard_is_tested_and_says_what_to_do() -> None:
    assert set(BROKEN) | {"reward_hacking"} == set(RULES)
    for name in RULES:
        assert "{" not in describe(name, HEALTHY)
        assert re.search(r"(lower|raise|set|change|make|check)", describe(name, {}), re.IGNORECASE)


def test_the_documentation_lists_every_guard() -> None:
    page = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [*RULES]


@pytest.mark.parametrize(
    ("extracted", "golds", "share"),
    [
        (["7", "7", "7", "8"], ["7", "8", "9", "10"], 0.75 - 0.25),
        (["7", "7", None, None], ["7", "8", "9", "10"], 0.5 - 0.25),
        (["7", "7"], ["7", "7"], 0.0),
        ([None, None], ["7", "8"], 0.0),
        ([], [], 0.0),
    ],
)
def test_the_share_of_a_repeated_answer(extracted: list[str | None], golds: list[str], share: float) -> None:
    assert repeated_share(extracted, golds) == pytest.approx(share)


def test_what_is_not_finite_is_named() -> None:
    assert find_nonfinite(HEALTHY) == []
    assert find_nonfinite(HEALTHY | {"policy/loss": float("nan"), "preference/slope": float("inf")}) == [
        "policy/loss",
        "preference/slope",
    ]


def test_unknown_guards_are_refused() -> None:
    with pytest.raises(UserError, match=r"guards\.fatal names entropy:.*entropy_collapse"):
        Guards(fatal=["entropy"])


# ------------------------------------------------------------------------------------------------ in a run


OPTIONS = [
    "--trainer.callbacks=null",
    "--trainer.val_check_interval=1000",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
    "--model.objective.surrogate.is_correction=truncate",
    "--model.preference.lr=5.0",
    "--trainer.max_steps=4",
]


@pytest.fixture
def corrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the sampler report a log-probability that is not a number in some of its calls, counted from 1."""

    def plant(*calls: int) -> None:
        original = TransformersSampler.generate
        made: list[int] = []

        def generate(self: TransformersSampler, *arguments: Any, **named: Any) -> Any:
            completions = original(self, *arguments, **named)
            made.append(1)
            if len(made) in calls:
                completions.logprobs[:, 0] = float("nan")
            return completions

        monkeypatch.setattr(TransformersSampler, "generate", generate)

    return plant


def warning_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "guards.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_update_that_is_not_finite_changes_nothing_and_can_be_replayed(
    policy: Path, tmp_path: Path, corrupt: Callable[..., None]
) -> None:
    corrupt(2)
    states: list[dict[str, torch.Tensor]] = []

    def keep(self: Any, trainer: Any, pl_module: Any, *rest: Any) -> None:
        states.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lambda_grpo_pl.callbacks.summary.RunSummary.on_train_batch_start", keep, raising=False)
        with pytest.warns(UserWarning, match=r"Update 2 was skipped.*log-probabilities of 16 of 16 responses") as seen:
            cli = run("fit", policy, tmp_path, *OPTIONS)
    assert sum("was skipped" in str(each.message) for each in seen) == 1
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert not all(torch.equal(states[2][name], states[3][name]) for name in states[2])
    assert all(bool(value.isfinite().all()) for value in cli.model.state_dict().values())
    assert ("2", "nonfinite") in {(row["update"], row["guard"]) for row in warning_rows(tmp_path)}
    facts = RolloutStore(tmp_path / "dumps").find(2)
    assert facts.metrics["policy/gradient_norm"] != facts.metrics["policy/gradient_norm"]
    out = tmp_path / "dump.csv"
    assert replay([str(tmp_path), "--step", "2", "--dump", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["recorded"] for row in rows] == [row["replayed"] for row in rows]
    assert next(row for row in rows if row["metric"] == "policy/gradient_norm")["replayed"] == "nan"


def test_too_many_skipped_updates_end_the_run(policy: Path, tmp_path: Path, corrupt: Callable[..., None]) -> None:
    corrupt(1, 2)
    with pytest.raises(UserError, match=r"Update 2 was skipped.*guards\.max_skipped is 1"):
        run("fit", policy, tmp_path, *OPTIONS, "--guards.max_skipped=1")


def test_a_fatal_guard_ends_the_run_and_a_guard_that_is_off_is_silent(policy: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--model.preference.bound=0.01", "--model.preference.init=0.01"]
    with pytest.raises(UserError, match=r"guards\.fatal names lambda_at_bound. λ has reached its bound"):
        run("fit", policy, tmp_path / "fatal", *options, "--guards.fatal=[lambda_at_bound]")
    assert warning_rows(tmp_path / "fatal")[0]["guard"] == "lambda_at_bound"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run("fit", policy, tmp_path / "off", *options, f"--guards.off=[{', '.join(RULES)}]")
    assert not (tmp_path / "off" / "guards.csv").exists()

"""Dynamic sampling replaces flat groups by informative ones and keeps everything else of the batch."""

import warnings
from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.resampling import DynamicSampling, HeldoutRollout, charge_length, replace_groups
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.integration.runs import digit_share, run
from tests.scored import scored_batch


def test_flat_groups_are_those_whose_active_rewards_are_equal() -> None:
    batch = scored_batch(0)
    assert batch.flat_groups()[0]
    rewards = batch.scored()
    mixed = rewards.total.clone()
    mixed[0] = 0.0
    batch.rewards = rewards._replace(total=mixed)
    assert not batch.flat_groups()[0]
    inactive = rewards.active.clone()
    inactive[0] = False
    batch.rewards = rewards._replace(total=mixed, active=inactive)
    assert batch.flat_groups()[0]


def test_a_group_without_active_responses_is_flat() -> None:
    batch = scored_batch(0)
    rewards = batch.scored()
    batch.rewards = rewards._replace(active=torch.zeros_like(rewards.active))
    assert batch.flat_groups().all()


def test_replacement_moves_whole_groups_and_widens_padding() -> None:
    batch, fresh = scored_batch(0), scored_batch(7)
    wide = torch.nn.functional.pad(fresh.prompts.ids, (3, 0), value=9)
    fresh.prompts = fresh.prompts._replace(ids=wide, lengths=fresh.prompts.lengths + 3)
    completions = fresh.sampled()
    fresh.completions = completions._replace(
        ids=torch.nn.functional.pad(completions.ids, (0, 2)),
        logprobs=torch.nn.functional.pad(completions.logprobs, (0, 2)),
    )
    source = int(torch.nonzero(~fresh.flat_groups())[0])
    untouched = batch.sampled().tokens(5)
    where = torch.tensor([True, False, False, False])
    replace_groups(batch, where, fresh, "total")
    assert batch.prompts.tokens(0) == fresh.prompts.tokens(source)
    for member in range(4):
        assert batch.sampled().tokens(member) == fresh.sampled().tokens(source * 4 + member)
        assert batch.scored().total[member] == fresh.scored().total[source * 4 + member]
        assert batch.scored().parts["exact"][member] == fresh.scored().total[source * 4 + member]
    assert batch.sampled().tokens(5) == untouched
    assert not batch.flat_groups()[0]


def test_nothing_informative_changes_nothing() -> None:
    batch, fresh = scored_batch(0), scored_batch(1)
    rewards = fresh.scored()
    fresh.rewards = rewards._replace(total=torch.ones_like(rewards.total))
    before = batch.sampled().ids.clone()
    replace_groups(batch, batch.flat_groups(), fresh, "total")
    assert torch.equal(batch.sampled().ids, before)


def test_groups_are_flat_by_correctness_unless_total_is_asked_for() -> None:
    """An overlong penalty spreads the totals of a group of wrong answers: only `correct` replaces it."""
    assert DynamicSampling(2).metric == "correct"
    batch, fresh = scored_batch(0), scored_batch(7)
    rewards = batch.scored()
    batch.rewards = rewards._replace(total=torch.linspace(-1, 0, 16), correct=torch.zeros(16, dtype=torch.bool))
    mixed = int(torch.nonzero(~fresh.flat_groups("correct"))[0])
    expected = fresh.sampled().tokens(mixed * 4)
    replace_groups(batch, batch.flat_groups("total"), fresh, "total")
    assert batch.sampled().tokens(0) != expected
    replace_groups(batch, batch.flat_groups("correct"), fresh, "correct")
    assert batch.sampled().tokens(0) == expected
    fresh.rewards = fresh.scored()._replace(correct=torch.zeros(16, dtype=torch.bool))
    before = batch.sampled().ids.clone()
    replace_groups(batch, torch.tensor([True] * 4), fresh, "correct")
    assert torch.equal(batch.sampled().ids, before)


@pytest.mark.parametrize(("metric", "num_rounds"), [("correct", 2.0), ("total", 0.0)])
def test_a_step_resamples_what_the_metric_calls_flat(
    metric: str, num_rounds: float, policy: Path, tmp_path: Path
) -> None:
    """A graded reward is never simply right, so `correct` finds no informative group and says so."""
    options = ("--trainer.callbacks=null", "--trainer.max_steps=1", "--trainer.val_check_interval=1000")
    rewards = f"--reward.functions=[{{name: {__name__}.graded}}]"
    dynamic = (f"--dynamic_sampling.metric={metric}", "--dynamic_sampling.max_rounds=2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli = run("fit", policy, tmp_path, *options, rewards, *dynamic)
    assert cli.trainer.callback_metrics["dynamic_sampling/rounds"] == num_rounds
    warned = [str(each.message) for each in caught if "dynamic_sampling.metric to total" in str(each.message)]
    assert len(warned) == (metric == "correct")


def graded(completion: str, example: object) -> float:
    return 0.5 * digit_share(completion, {}) + 0.001 * (sum(map(ord, completion)) % 97)


def test_length_is_charged_per_token_and_only_in_the_total() -> None:
    """The held-out objective is reward − c · tokens / limit; what counts as correct stays."""
    batch = scored_batch(0)
    before, lengths = batch.scored(), batch.sampled().lengths
    charge_length(batch, 0.25 / 12)
    torch.testing.assert_close(batch.scored().total, before.total - 0.25 * lengths / 12)
    assert batch.scored().total.dtype == torch.float32
    assert torch.equal(batch.scored().correct, before.correct)
    assert torch.equal(batch.scored().parts["exact"], before.parts["exact"])


class Seen(Exception):
    """Ends a run where its first update would begin."""


def test_held_out_rewards_alone_are_charged(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response of the limit of 8 tokens costs c; training rewards are not touched."""
    seen: list[RolloutBatch] = []

    def stop(module: LambdaGRPO, batch: RolloutBatch, index: int) -> None:
        seen.append(batch)
        raise Seen

    monkeypatch.setattr(LambdaGRPO, "training_step", stop)
    options = ("--data.heldout.split=validation", "--heldout.every=1", "--heldout.length_cost=0.5")
    rewards = "--reward.functions=[{name: tests.integration.runs.digit_share}]"
    with pytest.raises(Seen):
        run("fit", policy, tmp_path, "--trainer.callbacks=null", rewards, *options)
    (batch,) = seen
    assert batch.heldout is not None
    for part, cost in ((batch.heldout, 0.5), (batch, 0.0)):
        (earned,) = part.scored().parts.values()
        torch.testing.assert_close(part.scored().total, earned - cost * part.sampled().lengths / 8)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: DynamicSampling(-1),
        lambda: HeldoutRollout(every=-1),
        lambda: HeldoutRollout(1, 0),
        lambda: HeldoutRollout(1, 1, -0.1),
        lambda: HeldoutRollout(1, 1, float("inf")),
    ],
)
def test_impossible_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="set"):
        wrong()

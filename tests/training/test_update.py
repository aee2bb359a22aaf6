"""The gradient that trains is autograd's gradient of the documented loss, for every method, correction and layout."""

import functools
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.batch import Groups
from lambda_grpo_pl.objective import (
    FAMILIES,
    AdvantageConfig,
    LengthPreference,
    LossOutput,
    PreferenceConfig,
    SurrogateConfig,
    TokenLogprobs,
    count_tokens,
    policy_loss,
)
from lambda_grpo_pl.policy import Policy, lay_out
from lambda_grpo_pl.training import update
from lambda_grpo_pl.training.update import (
    Gradient,
    Passes,
    Rollout,
    accumulate_gradient,
    micro_batches,
    prepare_rollout,
    score_rows,
)
from tests.scored import random_policy, scored_batch

ROWS = torch.arange(16)
BUDGETS = (15, 60, 10**6)
LAYOUTS = ("padded", "packed", "shared_prefix")


def passes(budget: int = 10**6, **changes: Any) -> Passes:
    settings = {"agree": lambda number: number, "backward": lambda loss: loss.backward()}
    return Passes(budget=budget, **(settings | changes))


class Reference(NamedTuple):
    """One policy, one off-policy rollout, and the plain log-probabilities of its responses."""

    policy: Policy
    rollout: Rollout
    groups: Groups
    mask: Tensor
    logprobs: Tensor
    """[N, L] differentiable, by the model's own logits."""
    entropy: Tensor
    """[] summed over the tokens of the active rows."""


@functools.cache
def reference() -> Reference:
    """Random old, reference and sampler log-probabilities, so that ratios leave the clip on both sides."""
    policy, batch = random_policy(head_chunk=7), scored_batch(0)
    assert batch.rewards is not None
    batch.rewards.active[[3, 9]] = False
    rollout = prepare_rollout(policy, [], batch, AdvantageConfig(), passes(), needs_old=False)
    prompts, completions = rollout.prompts, rollout.completions
    mask = torch.arange(completions.ids.shape[1]) < completions.lengths[:, None]
    width = prompts.ids.shape[1]
    ids = torch.cat([prompts.ids.repeat_interleave(4, 0), completions.ids], 1)
    starts = (width - prompts.lengths).repeat_interleave(4)
    attention = torch.arange(ids.shape[1]) >= starts[:, None]
    position = (torch.arange(ids.shape[1]) - starts[:, None]).clamp(min=0)
    logits = policy.model(input_ids=ids, attention_mask=attention, position_ids=position).logits
    distribution = logits[:, width - 1 : -1].float().log_softmax(-1)
    logprobs = distribution.gather(2, completions.ids[..., None]).squeeze(-1)
    generator = torch.Generator().manual_seed(5)

    def near(spread: float) -> Tensor:
        return logprobs.detach() + spread * torch.randn(logprobs.shape, generator=generator)

    advantages = torch.randn(16, generator=generator)
    groups = Groups.of(batch)
    rollout = rollout._replace(
        old=near(0.4),
        reference=near(0.6),
        advantages=advantages * groups.active.flatten(),
        completions=completions._replace(logprobs=near(0.5)),
    )
    entropy = -(distribution.exp() * distribution).sum(-1)
    return Reference(policy, rollout, groups, mask, logprobs, entropy[mask & groups.active.view(16, 1)].sum())


def row_weights(family: str) -> Tensor:
    given = reference()
    groups = given.groups
    learn = "surrogate" if FAMILIES[family].has_lambda else "fixed"
    config = PreferenceConfig(family=family, learn=learn, init=1.5 * FAMILIES[family].has_lambda, max_length=12)
    count = count_tokens(groups.lengths, groups.active)
    advantages = given.rollout.advantages[groups.rows]
    f = LengthPreference(config)(groups.lengths, count.mean_length, groups.active, advantages=advantages).detach()
    return (f / count.denominator).float().flatten()


def expected(family: str, config: SurrogateConfig) -> tuple[LossOutput, list[Tensor]]:
    """`policy_loss` of the plain log-probabilities, and its gradient by autograd."""
    given = reference()
    rollout, active = given.rollout, given.groups.active.flatten()
    tokens = TokenLogprobs(given.logprobs, rollout.old, rollout.reference, rollout.completions.logprobs)
    mask = given.mask & active[:, None]
    output = policy_loss(tokens, mask, rollout.advantages, row_weights(family), config)
    return output, list(torch.autograd.grad(output.loss, list(given.policy.parameters()), retain_graph=True))


def accumulated(
    family: str, config: SurrogateConfig, layout: str, given_passes: Passes
) -> tuple[Gradient, list[Tensor]]:
    given = reference()
    given.policy.zero_grad()
    rows = given.groups.rows[given.groups.active]
    rollout = given.rollout._replace(layout=layout)
    gradient = accumulate_gradient(given.policy, rollout, rows, row_weights(family), config, given_passes)
    return gradient, [parameter.grad for parameter in given.policy.parameters() if parameter.grad is not None]


def corrections() -> list[dict[str, Any]]:
    """Token- and sequence-level ratios, all importance weights, all KL terms and the dual clip, all combined."""
    ratios = [{"ratio_level": "token"}, {"ratio_level": "sequence"}]
    weights = [{"is_correction": "none"}] + [
        {"is_correction": correction, "is_level": level, "is_cap": 1.5}
        for correction in ("truncate", "mask")
        for level in ("token", "sequence")
    ]
    kls: list[dict[str, Any]] = [{}] + [{"kl_coef": 0.3, "kl_estimator": name} for name in ("k1", "k2", "k3")]
    kls.append({"kl_coef": 0.3, "kl_estimator": "k3", "kl_correction": True})
    clips: list[dict[str, Any]] = [{"clip_high": 0.28}, {"clip_low": 0.1, "dual_clip": 1.3}]
    return [a | b | c | d for a, b, c, d in itertools.product(ratios, weights, kls, clips)]


CASES = [
    (settings, family, layout, budget)
    for settings, family, (layout, budget) in zip(
        corrections(), itertools.cycle(FAMILIES), itertools.cycle(itertools.product(LAYOUTS, BUDGETS)), strict=False
    )
]


@pytest.mark.parametrize(("settings", "family", "layout", "budget"), CASES)
def test_the_gradient_is_that_of_the_documented_loss(
    settings: dict[str, Any], family: str, layout: str, budget: int
) -> None:
    config = SurrogateConfig(**settings)
    output, gradients = expected(family, config)
    gradient, ours = accumulated(family, config, layout, passes(budget))
    scale = max(float(value.abs().max()) for value in gradients)
    assert scale > 1e-4
    for value, theirs in zip(ours, gradients, strict=True):
        torch.testing.assert_close(value, theirs, rtol=1e-3, atol=2e-5 * scale)
    torch.testing.assert_close(gradient.surrogates, output.surrogates, rtol=1e-4, atol=1e-4)
    for name, value in output.statistics.items():
        torch.testing.assert_close(gradient.totals[name].float(), value.float(), rtol=1e-4, atol=1e-3, msg=name)
    torch.testing.assert_close(gradient.totals["entropy"], reference().entropy)
    assert gradient.totals.keys() == output.statistics.keys() | {"entropy", "model_tokens"}


def test_the_cases_clip_on_every_side_and_cut_weights() -> None:
    """The comparison above would say little on a rollout where nothing is clipped."""
    statistics = expected("uniform", SurrogateConfig(dual_clip=1.3))[0].statistics
    assert all(int(statistics[f"clip_{side}"]) > 3 for side in ("low", "high", "dual"))
    cut, whole = (
        expected("uniform", SurrogateConfig(is_correction="truncate", is_cap=cap))[0].statistics["sampler_weight"]
        for cap in (1.5, 1e9)
    )
    assert cut < whole


def test_the_loss_is_scaled_against_averaging_over_ranks() -> None:
    """DDP and FSDP2 divide gradients by the number of ranks, but Z already counts all of them."""
    _, one = accumulated("uniform", SurrogateConfig(), "packed", passes())
    _, two = accumulated("uniform", SurrogateConfig(), "packed", passes(world_size=2))
    for single, double in zip(one, two, strict=True):
        torch.testing.assert_close(2 * single, double)


def test_passes_that_only_keep_ranks_in_step_change_nothing_and_the_last_one_is_told() -> None:
    """Another rank has five more micro-batches: this one repeats a row without a trace, also if it has none itself."""
    given, config = reference(), SurrogateConfig(kl_coef=0.1)
    told: list[bool] = []

    class Context:
        def __init__(self, last: bool) -> None:
            told.append(last)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    alone, expected_gradients = accumulated("uniform", config, "packed", passes(60))
    longer = passes(60, agree=lambda number: number + 5, sync=Context)
    gradient, ours = accumulated("uniform", config, "packed", longer)
    assert told == [False] * (len(told) - 1) + [True]
    assert len(told) > 6
    for value, other in zip(ours, expected_gradients, strict=True):
        torch.testing.assert_close(value, other)
    assert torch.equal(gradient.surrogates, alone.surrogates)
    row_tokens = given.rollout.prompts.lengths.repeat_interleave(4) + given.rollout.completions.lengths - 1
    assert alone.num_tokens == int(row_tokens[given.groups.active.flatten()].sum()), "the last token is only a label"
    assert gradient.num_tokens == alone.num_tokens + 5 * len(_shortest(given))
    totals = dict(gradient.totals)
    assert int(totals.pop("model_tokens")) == gradient.num_tokens
    for name, value in totals.items():
        assert torch.equal(value, alone.totals[name]), name

    given.policy.zero_grad()
    weights = row_weights("uniform")
    idle = accumulate_gradient(given.policy, given.rollout, ROWS[:0], weights, config, passes(agree=lambda _: 2))
    assert not idle.surrogates.any()
    assert idle.totals.keys() == {"model_tokens"}
    assert not any(parameter.grad.any() for parameter in given.policy.parameters() if parameter.grad is not None)


def _shortest(given: Reference) -> Tensor:
    """Input tokens of the row that idle ranks repeat."""
    row = given.rollout.completions.lengths.argmin()[None]
    return lay_out(given.rollout.prompts, given.rollout.completions, row, "packed").input_ids.flatten()


def test_micro_batches_hold_each_row_once() -> None:
    given = reference()
    chosen = ROWS[[1, 4, 5, 10, 15]]
    parts = list(micro_batches(given.rollout, chosen, passes(25)))
    rows = torch.cat([part.row.unique() for part, _, _ in parts])
    assert sorted(rows.tolist()) == chosen.tolist()
    assert all(counts for _, counts, _ in parts)
    assert len(parts) > 2


@pytest.mark.parametrize("needs_old", [True, False])
@pytest.mark.parametrize("references", [(), ("reference",)])
def test_only_the_policies_that_are_needed_score_a_rollout(
    monkeypatch: pytest.MonkeyPatch, needs_old: bool, references: tuple[Any, ...]
) -> None:
    """On-policy without a KL term no pass is made before the update."""
    scored: list[list[Any]] = []
    monkeypatch.setattr(
        update, "score_rows", lambda policies, *_: scored.append(list(policies)) or [ROWS for _ in policies]
    )
    policy = random_policy()
    prepare_rollout(policy, references, scored_batch(0), AdvantageConfig(), passes(), needs_old)
    expected = [policy] * needs_old + list(references)
    assert scored == ([expected] if expected else [])


def test_scores_are_the_models_own_logprobs_of_the_chosen_rows() -> None:
    given = reference()
    chosen = ROWS[[0, 2, 7]]
    other = random_policy()
    other.load_state_dict({name: 1.1 * value for name, value in given.policy.state_dict().items()})
    scores, others = score_rows([given.policy, other], given.rollout, chosen, passes(30))
    mask = given.mask & torch.isin(ROWS, chosen)[:, None]
    torch.testing.assert_close(scores[mask], given.logprobs.detach()[mask], rtol=1e-4, atol=1e-4)
    assert not scores[~mask].any()
    assert not torch.allclose(scores[mask], others[mask], atol=1e-2)
    assert not scores.requires_grad


def test_a_rollout_is_prepared_with_the_old_policy_and_the_reference() -> None:
    """Inactive responses have no advantage and are not scored; a batch-wide std takes the sums over all ranks."""
    policy, batch = random_policy(), scored_batch(0)
    other = random_policy()
    other.load_state_dict({name: 1.1 * value for name, value in policy.state_dict().items()})
    assert batch.rewards is not None
    batch.rewards.active[5] = False
    config = AdvantageConfig(scale="batch", baseline="none")
    rollout = prepare_rollout(policy, (other,), batch, config, passes(), needs_old=True)
    active = batch.rewards.active
    std = batch.rewards.total[active].std()
    torch.testing.assert_close(rollout.advantages[active], batch.rewards.total[active] / std, rtol=1e-4, atol=1e-4)
    assert rollout.advantages[5] == 0
    rows = ROWS[active]
    for scored, model in ((rollout.old, policy), (rollout.reference, other)):
        assert torch.equal(scored, score_rows([model], rollout, rows, passes())[0])
    doubled = prepare_rollout(policy, [], batch, config, passes(total=lambda sums: 2 * sums), needs_old=False)
    assert doubled.old is None
    assert doubled.reference is None
    # Twice the same rewards: the squared deviations double, and so does n, so that only n − 1 differs.
    n = int(active.sum())
    shrunk = (((2 * n - 1) / (2 * (n - 1))) ** 0.5) * rollout.advantages
    torch.testing.assert_close(doubled.advantages, shrunk, rtol=1e-4, atol=1e-4)

"""How each validation set is sampled and scored: its benchmark's settings or the defaults, and what overrides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lambda_grpo_pl.data.benchmarks import BENCHMARKS
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import EvaluationSetup
from lambda_grpo_pl.rewards import RewardSpec, describe, is_graded
from lambda_grpo_pl.sampling_settings import SamplingParameters, SamplingSettings


@dataclass(kw_only=True)
class EvaluationSettings:
    """`SamplingParameters` that replace a set's own; null keeps the set's."""

    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    top_k: int | None = None
    """Keep this many most likely tokens; 0 keeps all."""
    num_samples: int | None = None
    """Responses per question, n."""
    max_tokens: int | None = None
    """Longest response in tokens; a longer one is cut and marked truncated."""

    def __post_init__(self) -> None:
        given = SamplingParameters(**self._given())
        given.check_sampling("evaluation.overrides (or evaluation.benchmarks.<name>)")
        refuse_greedy_repeats("evaluation.overrides", given)

    def apply(self, settings: SamplingSettings) -> SamplingSettings:
        """Return `settings` with the values that are set here."""
        return replace(settings, **self._given())

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


class SetPlan(NamedTuple):
    """How this evaluation samples and scores one set."""

    sampling: SamplingSettings
    """How responses are drawn."""
    rewards: tuple[RewardSpec, ...]
    """What scores them, the task's reward first; empty for the training rewards."""
    setup: EvaluationSetup
    """The same and the template, as recorded and printed with every score."""


def plan_set(
    source: PromptSource,
    overrides: Sequence[EvaluationSettings],
    training: SamplingSettings,
    training_rewards: Sequence[RewardSpec],
    seed: int,
) -> SetPlan:
    """Return how a set is sampled and scored; later `overrides` win.

    A registered benchmark brings its sampling and its reward; any other set is sampled greedily at the training limit
    and scored by the training rewards. Raises `UserError` for several greedy samples per question.
    """
    entry = BENCHMARKS[source.benchmark] if source.benchmark else None
    if entry is None:
        sampling = SamplingSettings(temperature=0.0, max_tokens=training.max_tokens)
        rewards: tuple[RewardSpec, ...] = ()
        is_score = any(is_graded(spec.name) for spec in training_rewards)
    else:
        sampling = SamplingSettings(**entry.sampling_parameters())
        rewards = (RewardSpec(name=entry.reward, params=entry.reward_params),)
        is_score = entry.metric == "score"
    for override in overrides:
        sampling = override.apply(sampling)
    refuse_greedy_repeats(f"The evaluation of {source.name}", sampling)
    judges = rewards or training_rewards
    setup = EvaluationSetup(
        benchmark=source.name,
        template=source.prompt_template.label,
        reward=" + ".join(spec.name if spec.weight == 1 else f"{spec.weight:g}·{spec.name}" for spec in judges),
        reward_params=judges[0].params if len(judges) == 1 else {spec.label: spec.params for spec in judges},
        reward_reads=describe(judges[0].name),
        metric="score" if is_score else "accuracy",
        **sampling.sampling_parameters(),
        stop=source.prompt_template.stop,
        seed=seed,
    )
    return SetPlan(sampling, rewards, setup)


def refuse_greedy_repeats(who: str, sampling: SamplingParameters) -> None:
    """Raise `UserError` for several samples at temperature 0: they are all the same."""
    if sampling.greedy and sampling.num_samples > 1:
        raise UserError(
            f"{who} would draw {sampling.num_samples} identical samples per question (temperature 0): set "
            "evaluation.overrides.temperature above 0, or evaluation.overrides.num_samples to 1."
        )

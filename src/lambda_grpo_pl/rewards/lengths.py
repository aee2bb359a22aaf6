"""Rewards that look at a response's length in tokens, `example["response_length"]`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.calls import RewardCaller
from lambda_grpo_pl.rewards.registry import register
from lambda_grpo_pl.rewards.verdict import Verdict


@register("overlong")
class SoftOverlong:
    """DAPO's soft overlong penalty (2503.14476, eq. 13): 0, then down to −`factor` over the last `buffer` tokens.

    `max_length` is the response limit in tokens: the penalty starts at `max_length − buffer` and stays at −`factor`
    past the limit.
    """

    def __init__(self, max_length: int, buffer: int, factor: float = 1.0) -> None:
        if not 0 < buffer <= max_length:
            raise UserError(f"overlong: buffer must be in 1..max_length ({max_length}), got {buffer}.")
        self.max_length, self.buffer, self.factor = max_length, buffer, factor

    def __call__(self, completion: str, example: Mapping[str, Any]) -> float:
        """The penalty, in [−factor, 0]."""
        excess = int(example["response_length"]) - (self.max_length - self.buffer)
        return self.factor * max(-1.0, min(0.0, -excess / self.buffer))


@register("length")
class LengthShaping:
    """A score in [0, 1] for a response's length, an option beside the objective's own length preference.

    `shorter` falls linearly from 1 at zero tokens to 0 at `target` tokens; `longer` rises likewise; `close` is 1 at
    `target` and falls to 0 at twice that. A truncated response scores 0: the limit chose its length, not the policy.
    """

    def __init__(self, target: int, prefer: Literal["shorter", "longer", "close"] = "shorter") -> None:
        if target < 1:
            raise UserError(f"length: target is a number of tokens and must be at least 1, got {target}.")
        if prefer not in ("shorter", "longer", "close"):
            raise UserError(f"length: prefer must be shorter, longer or close, got {prefer!r}.")
        self.target, self.prefer = target, prefer

    def __call__(self, completion: str, example: Mapping[str, Any]) -> float:
        """The score, in [0, 1]."""
        if example["truncated"]:
            return 0.0
        ratio = int(example["response_length"]) / self.target
        if self.prefer == "longer":
            return min(1.0, ratio)
        return max(0.0, 1.0 - (ratio if self.prefer == "shorter" else abs(ratio - 1.0)))


@register("length_ratio")
class LengthRatio:
    """1 / (1 + α ℓ/ℓ̄) for a response of ℓ tokens in a group of mean length ℓ̄: GR3's length factor, group-wise.

    `reward` names a reward R (with `reward_params`) that is multiplied by it: R / (1 + α ℓ/ℓ̄), as GR3 trains; without
    it R is 1. Source: GR3, 2603.10535.
    """

    scope = "group"

    def __init__(self, alpha: float, reward: str = "", reward_params: dict[str, Any] | None = None) -> None:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise UserError(f"length_ratio: alpha must be finite and not negative, got {alpha}.")
        self.alpha = alpha
        self.reward = RewardCaller.build(reward, reward_params or {}) if reward else None

    def __call__(self, completions: Sequence[str], examples: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Return the G scores of a group; `correct` and the answer are those of R."""
        verdicts = [Verdict(1.0, True)] * len(completions)
        if self.reward is not None:
            verdicts = self.reward.score(list(self.reward.split(completions, examples, [len(completions)])))
        lengths = [int(example["response_length"]) for example in examples]
        mean = max(sum(lengths) / len(lengths), 1.0)
        return [
            verdict._replace(score=verdict.score / (1 + self.alpha * length / mean))
            for verdict, length in zip(verdicts, lengths, strict=True)
        ]

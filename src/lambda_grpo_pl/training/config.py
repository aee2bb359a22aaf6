"""What users set about the objective, the optimizer and the updates; checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig

PRECISIONS = ("32-true", "bf16-mixed")


def check_precision(precision: str) -> None:
    """Refuse a trainer precision under which weights or gradients would be wrong. Raises `UserError`.

    Half-precision weights round small updates of λ and the policy away; float16 scales the loss, so that clipping would
    see scaled gradients.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision is {precision}: set it to bf16-mixed (float32 weights, bfloat16 arithmetic) or 32-true."
        )


@dataclass(kw_only=True)
class ObjectiveConfig:
    """The objective without the length preference, which is a separate section (`model.preference`)."""

    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """How rewards become advantages."""
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """Clipping, KL term and importance-sampling correction."""
    token_count: Literal["global", "group"] = "global"
    """What Z counts: all response tokens of the update on all ranks, or the tokens of each prompt, prompts averaged."""
    skip_zero_advantage: bool = True
    """Skip rows whose advantage is 0 if there is no KL term: same gradient, less compute, Z unchanged."""


SEQUENCE_NAMES = {"grpo": "gspo", "dr_grpo": "luspo"}
"""Weights of a length preference → the method's name with one ratio per response (2507.18071, 2602.05261)."""


def name_method(preference: str, objective: ObjectiveConfig) -> str:
    """Name a method by its length preference and those parts of the objective that make another method of it."""
    if objective.surrogate.ratio_level == "sequence":
        return SEQUENCE_NAMES.get(preference, f"{preference}_sequence")
    if preference == "dapo" and objective.token_count == "group":
        return "prompt_mean"
    return preference


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW on the policy, one step per update. λ has its own optimizer, see `model.preference.lr`."""

    lr: float = 1e-6
    """Peak learning rate, reached after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate decays after the warm-up: not at all, or to 0 at trainer.max_steps."""
    max_grad_norm: float = 1.0
    """The policy's gradient is scaled down to this norm; λ's never is."""
    states: Literal["float32", "8bit"] = "float32"
    """Precision of AdamW's two moments: 8 bytes per parameter in float32, 2 bytes in 8bit, which needs torchao:
    pip install 'lambda-grpo-pl[low-memory]'."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise UserError(f"model.optimizer.lr is {self.lr}: set it above 0.")
        if not self.max_grad_norm > 0:
            raise UserError(
                f"model.optimizer.max_grad_norm is {self.max_grad_norm}: set it above 0 (1e9 for no clipping)."
            )
        if self.warmup_steps < 0:
            raise UserError(f"model.optimizer.warmup_steps is {self.warmup_steps}: set it to 0 or more.")
        if self.states not in ("float32", "8bit"):
            raise UserError(
                f"model.optimizer.states is {self.states!r}: choose float32 or 8bit. Offloading the states to the CPU "
                "is not supported, because torchao's offloading optimizer would skip gradient clipping."
            )


@dataclass(kw_only=True)
class UpdateConfig:
    """How many optimizer updates are made with one rollout."""

    num_epochs: int = 1
    """Passes over the rollout (GRPO's μ)."""
    num_minibatches: int = 1
    """Equal parts of the rollout's prompts, one update each."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise UserError(f"model.updates.{name} is {getattr(self, name)}: set it to 1 or more.")

    @property
    def per_rollout(self) -> int:
        """Optimizer updates per rollout."""
        return self.num_epochs * self.num_minibatches

    def check(self, num_prompts: int) -> None:
        """Refuse prompts that do not split evenly into mini-batches."""
        if num_prompts % self.num_minibatches:
            raise UserError(
                f"{num_prompts} prompts per rank do not split into model.updates.num_minibatches = "
                f"{self.num_minibatches} equal parts: set data.batch_size, divided by the number of ranks, to a "
                f"multiple of {self.num_minibatches}, or change num_minibatches."
            )

"""What users say about the objective, the optimizer and the updates; checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig


def check_precision(precision: str) -> None:
    """Refuse a trainer precision that holds weights in half precision. Raises `ValueError`."""
    if precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision is {precision}, which rounds small updates of λ and the policy away: set it to "
            "bf16-mixed (float32 weights, bfloat16 arithmetic)."
        )


@dataclass(kw_only=True)
class ObjectiveConfig:
    """The objective apart from the length preference, which has a section of its own."""

    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """How rewards become advantages."""
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """Clipping, KL term and importance-sampling correction."""
    token_count: Literal["global", "group"] = "global"
    """What Z counts: all response tokens of the update on all ranks, or each prompt's own with the prompts averaged."""
    skip_zero_advantage: bool = True
    """Leave out rows whose advantage is 0 when there is no KL term: same gradient, less compute, Z unchanged."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW on the policy, stepped once an update. λ has its own optimizer, see `preference`."""

    lr: float = 1e-6
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls afterwards, down to 0 at trainer.max_steps."""
    max_grad_norm: float = 1.0
    """The policy's gradient is scaled down to this norm; λ's never is."""
    states: Literal["float32", "8bit", "offload"] = "float32"
    """Where AdamW's two moments lie: 8 bytes a parameter, 2 bytes (quantised), or in the CPU's memory (GPUs only).
    The last two come from torchao: pip install 'lambda-grpo-pl[low-memory]'."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr is {self.lr}: set it above 0.")
        if self.max_grad_norm <= 0:
            raise ValueError(
                f"optimizer.max_grad_norm is {self.max_grad_norm}: set it above 0 (use 1e9 for no clipping)."
            )


@dataclass(kw_only=True)
class UpdateConfig:
    """How many optimizer updates a rollout serves."""

    num_epochs: int = 1
    """Passes over the rollout (GRPO's μ)."""
    num_minibatches: int = 1
    """Parts of the rollout, by prompts, one update each."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"updates.{name} is {getattr(self, name)}: set it to 1 or more.")

    @property
    def per_rollout(self) -> int:
        """Optimizer updates a rollout."""
        return self.num_epochs * self.num_minibatches

    def check(self, num_prompts: int) -> None:
        """Refuse prompts that do not split evenly into mini-batches."""
        if num_prompts % self.num_minibatches:
            raise ValueError(
                f"{num_prompts} prompts a rank do not split into updates.num_minibatches = {self.num_minibatches} "
                "equal parts: set data.batch_size (over the number of ranks) to a multiple of "
                f"{self.num_minibatches}, or change num_minibatches."
            )

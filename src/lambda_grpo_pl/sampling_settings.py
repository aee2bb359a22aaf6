"""How responses are drawn, declared once: for training, for benchmarks, and for the record of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from lambda_grpo_pl.errors import UserError


@dataclass(kw_only=True)
class SamplingParameters:
    """How responses are drawn; whatever is sampled in its own way derives from this class."""

    temperature: float = 1.0
    """Divides the logits before sampling; 0 takes the most likely token (greedy), with log-probabilities at 1."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    max_tokens: int = 1024
    """Longest response in tokens; a longer one is cut and marked truncated."""
    num_samples: int = 1
    """Responses per prompt: the group size G in training, n in evaluation."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken instead of a random one."""
        return self.temperature == 0

    def sampling_parameters(self) -> dict[str, Any]:
        """Return the fields above by name, for another class that derives from this one."""
        return {field.name: getattr(self, field.name) for field in fields(SamplingParameters)}

    def check_sampling(self, section: str) -> None:
        """Refuse values that no sampler takes. Raises `UserError` that names the key in `section`."""
        if self.temperature < 0:
            raise UserError(f"{section}.temperature is {self.temperature}: set it to 0 (greedy) or above.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"{section}.top_p is {self.top_p}: set it above 0 and at most 1 (1 keeps every token).")
        if self.top_k < 0:
            raise UserError(f"{section}.top_k is {self.top_k}: set it to 0 (keeps every token) or above.")
        if self.max_tokens < 1:
            raise UserError(f"{section}.max_tokens is {self.max_tokens}: allow at least 1 response token.")
        if self.num_samples < 1:
            raise UserError(f"{section}.num_samples is {self.num_samples}: ask for at least 1 response per prompt.")


@dataclass(kw_only=True)
class SamplingSettings(SamplingParameters):
    """What one call of a sampler is told. Training (`rollout.sampling`) and evaluation each have their own.

    Train at `top_p` 1 and `top_k` 0: otherwise samples do not come from the policy that is trained.
    """

    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a response, in addition to the end-of-sequence tokens. Templates add their single-token stop
    strings."""

    def __post_init__(self) -> None:
        self.check_sampling("rollout.sampling")

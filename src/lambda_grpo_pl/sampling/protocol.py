"""The sampler protocol and the settings of one call.

A sampler turns prompts into completions with the policy's weights, as token ids in and token ids out: no string, no
template, no reward. One seed per call makes the result a pure function of (weights, prompts, settings, seed), so a
resumed run samples what the interrupted one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError

OnGroup = Callable[[int, Completions], None]
"""Called when the last response of a group has ended, with the prompt's number and its G completions on the CPU.

Groups arrive in the order in which they end, each once, possibly on another thread than the caller's.
"""


@dataclass(kw_only=True)
class SamplingSettings:
    """How responses are drawn. Training (`rollout.sampling`) and evaluation each have their own."""

    temperature: float = 1.0
    """Divides the logits before sampling; 0 takes the most likely token (greedy), with log-probabilities at 1."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this. Train at 1: otherwise samples do not come from
    the policy that is trained."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    max_tokens: int = 1024
    """Longest response in tokens; a longer one is cut and marked truncated."""
    num_samples: int = 1
    """Responses per prompt: the group size G in training."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a response, in addition to the end-of-sequence tokens. Templates add their single-token stop
    strings."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"rollout.sampling.temperature is {self.temperature}: set it to 0 (greedy) or above.")
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"rollout.sampling.top_p is {self.top_p}: set it above 0 and at most 1 (1 keeps every token)."
            )
        if self.top_k < 0:
            raise UserError(f"rollout.sampling.top_k is {self.top_k}: set it to 0 (keeps every token) or above.")
        if self.max_tokens < 1:
            raise UserError(f"rollout.sampling.max_tokens is {self.max_tokens}: allow at least 1 response token.")
        if self.num_samples < 1:
            raise UserError(
                f"rollout.sampling.num_samples is {self.num_samples}: ask for at least 1 response per prompt."
            )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken instead of a random one."""
        return self.temperature == 0


class SyncReport(NamedTuple):
    """What one weight sync moved."""

    seconds: float
    """Wall time."""
    num_bytes: int
    """Bytes handed to the engine; 0 where the sampler reads the policy's own tensors."""
    sent: tuple[str, ...]
    """Names of the tensors that were handed over, as the policy names them."""
    missing: tuple[str, ...]
    """Names of tensors that the engine has and was not sent: these are stale."""


class Sampler(Protocol):
    """Prompts → completions with the weights of the last `sync`."""

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample `settings.num_samples` = G responses to each of B prompts; `on_group` gets each group when it ends.

        Returns N = B·G rows in prompt-major order on the device of `prompts.ids`: ids [N, L] right-padded, lengths [N]
        with the end-of-sequence token, truncated [N], and logprobs [N, L] under the distribution that was sampled from
        (after temperature, top-k and top-p).
        """
        ...

    def sync(self, policy: nn.Module) -> SyncReport:
        """Make the sampler use the present weights of `policy`, a transformers causal language model or peft's wrapper.

        Every rank calls it, since sharded weights are gathered; `generate` and `probe` involve no other rank.
        """
        ...

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return log p(token t | tokens before t) at temperature 1 for t = 1, 2, …: one value less than tokens."""
        ...

    @property
    def last_sync(self) -> SyncReport | None:
        """The report of the latest `sync`, or None before the first."""
        ...

    def sleep(self) -> None:
        """Free memory that only sampling needs, until the next call of any method. Samplers without any do nothing."""
        ...

    def close(self) -> None:
        """Free all resources; the sampler cannot be used afterwards."""
        ...


class ReceivingSampler(Sampler, Protocol):
    """A sampler that takes weights from any source, so that it can run in another process than the policy."""

    def receive(self, weights: Iterable[tuple[str, Tensor]], expected: Collection[str] | None = None) -> SyncReport:
        """Take over (name, unsharded tensor) pairs as `policy_weights` yields them.

        The report's `missing` names what of `expected` did not arrive; None expects every tensor of the sampler.
        """
        ...

"""The sampler protocol.

A sampler turns prompts into completions with the policy's weights, as token ids in and token ids out: no string, no
template, no reward. One seed per call makes the result a pure function of (weights, prompts, settings, seed), so a
resumed run samples what the interrupted one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling_settings import SamplingSettings

OnGroup = Callable[[int, Completions], None]
"""Called when the last response of a group has ended, with the prompt's number and its G completions on the CPU.

Groups arrive in the order in which they end, each once, possibly on another thread than the caller's.
"""


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


@runtime_checkable
class RestartableSampler(Sampler, Protocol):
    """A sampler whose engine can be replaced by a new one in the middle of a run."""

    def restart(self) -> None:
        """Start again after a failure, with the weights of the last `sync`. No other rank is involved.

        Raises `UserError` if that is not possible here.
        """
        ...

"""A sampler that is proven to have the policy's weights."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from typing import Any, NamedTuple

import torch

from lambda_grpo_pl.rollout.recovery import RecoveredCalls, SelfTest
from lambda_grpo_pl.rollout.responses import Tokenizer
from lambda_grpo_pl.rollout.run_context import RunContext, SampledPolicy
from lambda_grpo_pl.sampling import (
    DEFAULT_CONTEXT,
    Recovery,
    RecoverySettings,
    RememberedLogprobs,
    Sampler,
    SamplerBuilder,
    SamplerName,
    SamplerProcess,
    ServerSettings,
    SyncProbe,
    UsualGap,
    VllmSettings,
    context_switch,
    engine_settings,
    installed_vllm,
    plan_adapters,
    plan_probe,
    runs_remote_code,
    uses_vllm,
)


class SamplerPlacement(NamedTuple):
    """What a sampler in a separate process may use."""

    num_threads: int | None
    """CPU threads; None: as many as this process has."""
    device: int | None
    """GPU, counted among the visible ones; None: this process's GPU."""


class EngineInfo(NamedTuple):
    """What samples, as far as it may change what is sampled."""

    engine: str
    """`vllm` or `transformers`."""
    engine_version: str
    """Version of that package."""
    dtype: str
    """Number format it computes in, such as `float32`."""


class PolicySampler:
    """Starts a sampler with the first sync, hands it the weights when they change, and proves that it has them.

    Attributes:
        calls: What samples, with restarts where the sampler fails.
        name: Which sampler starts.
        placement: Set before the first sync to start it in a separate process; None for this process.
        vllm: How vLLM's engine is built, if it samples, here or on servers.
        server: Which servers sample, if `name` is `server`.
        gap: What the self-test found after the last sync, in nats.
    """

    def __init__(
        self,
        run: RunContext,
        name: SamplerName = "auto",
        vllm: VllmSettings = VllmSettings(),
        sampler: Sampler | None = None,
        server: ServerSettings = ServerSettings(),
        recovery: RecoverySettings = RecoverySettings(),
    ) -> None:
        """Keep the settings; a `sampler` given here is used instead of starting one."""
        self.name = name
        self.placement: SamplerPlacement | None = None
        self._run, self.vllm, self.server = run, vllm, server
        self.calls = RecoveredCalls(Recovery(recovery), run.tokenizer.pad_token_id, sampler)
        self._version: int | None = None
        self._usual_gap = UsualGap()
        self.gap = 0.0

    @property
    def started(self) -> Sampler:
        """The sampler, after the first sync."""
        return self.calls.started

    @property
    def version(self) -> int:
        """Version of the weights that the sampler has, after the first sync."""
        assert self._version is not None, "sync first"
        return self._version

    def has(self, version: int) -> bool:
        """Whether the sampler has this version of the weights."""
        return self._version == version

    def expire(self) -> None:
        """Let the next `sync` hand over the weights again."""
        self._version = None

    def reserve_context(self, num_tokens: int) -> None:
        """Let an engine that starts later hold a prompt and response of `num_tokens`, unless its settings say less."""
        self._run = replace(self._run, context_length=max(num_tokens, self._run.context_length or 0))

    def describe(self, policy: SampledPolicy) -> EngineInfo:
        """Return what samples on this machine; it need not have started."""
        if self.name == "server":
            return EngineInfo("vllm server", "", _name_dtype(self.vllm.torch_dtype))
        if uses_vllm(self.name):
            return EngineInfo("vllm", installed_vllm() or "", _name_dtype(self.vllm.torch_dtype))
        dtype = next(policy.model.parameters()).dtype
        return EngineInfo("transformers", metadata.version("transformers"), _name_dtype(dtype))

    def start(self, policy: SampledPolicy) -> Sampler:
        """Build the sampler: in this process, or where `placement` says."""
        builder = SamplerBuilder(
            name=self.name,
            config=policy.causal_lm.config,
            eos_token_ids=eos_token_ids(self._run.tokenizer, policy.causal_lm),
            pad_token_id=self._run.tokenizer.pad_token_id,
            engine=self.vllm,
            server=self.server,
            adapters=plan_adapters(policy.model) if self.vllm.lora_adapters else None,
            context_length=self._run.context_length,
            trust_remote_code=runs_remote_code(policy.causal_lm),
        )
        if self.placement is None:
            return builder.build()
        return SamplerProcess(builder, *self.placement, timeout_s=self.calls.recovery.settings.timeout_s)

    def sync(self, policy: SampledPolicy, version: int) -> float | None:
        """Give the sampler the policy's weights and prove that it has them; every rank calls it.

        Args:
            policy: Where the weights are.
            version: A number that changes whenever the weights do, such as the trainer's `global_step`.

        Returns:
            The largest difference (nats) that the self-test found, or None if the sampler has this version already.

        Raises:
            SyncError: If the sampler's log-probabilities are not the policy's.
        """
        if self.has(version):
            return None
        self.calls.settle()
        if self.calls.sampler is None:
            self.calls.sampler = self.start(policy)
        self.calls.self_test = None
        pending = [policy]

        def hand_over() -> float:
            while pending:  # after a failure, the restart has handed the weights over
                self.started.sync(pending.pop().model)
            if self.calls.self_test is None:  # once, however often the sampler fails: all ranks ask the policy together
                logprobs = RememberedLogprobs(policy.sequence_logprobs)
                self.calls.self_test = SelfTest(self._plan_probe(policy), logprobs, self._usual_gap)
            return self.calls.self_test.run(self.started)

        self.gap = self.calls.run(hand_over)
        self._version = version
        return self.gap

    def _plan_probe(self, policy: SampledPolicy) -> SyncProbe:
        config, trainer_dtype = policy.causal_lm.config, self._run.trainer_dtype
        engine = engine_settings(self.name, self.vllm)
        return plan_probe(
            vocab_size=len(self._run.tokenizer),
            engine_dtype=trainer_dtype if engine is None else engine.torch_dtype,
            trainer_dtype=trainer_dtype,
            max_length=self._longest_probe(config),
            window=context_switch(config) if self._version is None else None,  # a window's effect never changes
            tolerance=self._run.sync_tolerance,
        )

    def _longest_probe(self, config: Any) -> int:
        positions = getattr(config, "max_position_embeddings", None) or DEFAULT_CONTEXT
        return self.vllm.context_length(self._run.context_length, positions) - 1

    def sleep(self) -> None:
        """Free memory that only sampling needs, until the sampler is used again."""
        if self.calls.sampler is not None:
            self.calls.sampler.sleep()

    def release(self) -> Sampler | None:
        """Return the sampler without closing it, for another run; this object has none afterwards."""
        released, self.calls.sampler, self._version = self.calls.sampler, None, None
        return released

    def close(self) -> None:
        """Free the sampler; a later sync starts a new one."""
        released = self.release()
        if released is not None:
            released.close()


def _name_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def eos_token_ids(tokenizer: Tokenizer, causal_lm: Any) -> tuple[int, ...]:
    """Return all tokens that end a response: the tokenizer's, then those of the model's generation configuration.

    Instruction-tuned models have several, such as `<|eot_id|>` and `<|end_of_text|>`; the tokenizer knows one.
    """
    configured = getattr(getattr(causal_lm, "generation_config", None), "eos_token_id", None)
    others = configured if isinstance(configured, list | tuple) else [configured]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *others) if token is not None))

"""Sampling with vLLM inside this process, on GPUs and CPUs.

The engine is built from the policy's configuration alone, with no weights and no tokenizer: the first `sync` fills it.

Determinism: on GPUs vLLM's newer model runner draws each request's noise from its seed, so every request gets one. The
older runner, which CPUs use, draws from torch's global generator, which is seeded per call and restored afterwards
(there, seeds per request would cost a loop over requests at every token). The prefix cache is emptied first: whether a
prompt is cached changes the shapes of the computation and so its rounding, and a resumed run starts with an empty
cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.adapters import AdapterPlan
from lambda_grpo_pl.sampling.completions import pad_responses
from lambda_grpo_pl.sampling.protocol import OnGroup, SyncReport
from lambda_grpo_pl.sampling.vllm.engine import VllmEngine
from lambda_grpo_pl.sampling.vllm.settings import VllmSettings
from lambda_grpo_pl.sampling.weights import is_distributed, policy_weights, weight_names
from lambda_grpo_pl.sampling_settings import SamplingSettings

log = logging.getLogger(__name__)


class VllmSampler:
    """Samples with its own engine, which holds a copy of the weights as of the last `sync`.

    Example:
        >>> sampler = VllmSampler(model.config, eos_token_ids=[1], pad_token_id=0, settings=VllmSettings())
        >>> sampler.sync(model)
        >>> completions = sampler.generate(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
    """

    def __init__(
        self,
        config: Any,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        settings: VllmSettings,
        adapters: AdapterPlan | None = None,
        context_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Build the engine for the transformers configuration `config`; its weights are random until the first `sync`.

        With `adapters`, a LoRA policy's adapters are sent separately instead of merged. `context_length` is the longest
        prompt plus response that will be requested.

        Raises:
            UserError: If vLLM is absent or out of range, or cannot run this model on this device.
        """
        self.pad_token_id = pad_token_id
        self.last_sync: SyncReport | None = None
        self._merge = adapters is None
        self._build = partial(VllmEngine, config, eos_token_ids, settings, adapters, context_length, trust_remote_code)
        self._engine = self._build()
        self._source: nn.Module | None = None

    def sync(self, policy: nn.Module) -> SyncReport:
        """Copy the weights; from a policy's second sync on, only what changed (see `policy_weights`)."""
        changed_only = policy is self._source
        expected = weight_names(policy, changed_only, self._merge) if changed_only else None
        report = self.receive(policy_weights(policy, changed_only, self._merge), expected)
        self._source = policy
        return report

    def restart(self) -> None:
        """Build a new engine and copy all weights of the policy, as `RestartableSampler.restart` describes.

        Raises `UserError` under several ranks, whose engines share a process group and can only start together.
        """
        if is_distributed():
            raise UserError(
                "vLLM failed in the trainer's process, where it cannot be restarted under several ranks (the cause is "
                "above): continue this run with --resume."
            )
        assert self._source is not None, "sync first"
        try:
            self._engine.close()
        except Exception as error:  # after a failure, closing may raise anything
            log.debug("Closing the failed engine: %s", error)
        self._engine = self._build()
        self.receive(policy_weights(self._source, merge=self._merge))

    def receive(self, weights: Iterable[tuple[str, Tensor]], expected: Collection[str] | None = None) -> SyncReport:
        """Copy (name, unsharded tensor) pairs into the engine, as `ReceivingSampler.receive` describes."""
        start = time.perf_counter()
        sent: dict[str, int] = {}

        def counted() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                sent[name] = weight.numel() * weight.element_size()
                yield name, weight

        self._engine.load(counted())
        missing = self._engine.missing(sent) if expected is None else [name for name in expected if name not in sent]
        self.last_sync = SyncReport(time.perf_counter() - start, sum(sent.values()), tuple(sent), tuple(missing))
        return self.last_sync

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            ValueError: Before the first `sync`.
            UserError: If a prompt and its response may exceed the engine's limit.
        """
        self._require_sync()
        self._require_room(int(prompts.lengths.max()), settings.max_tokens)
        num_prompts, group = len(prompts.lengths), settings.num_samples
        outputs: list[list[Any]] = [[] for _ in range(num_prompts)]
        drawn = replace(settings, num_samples=1) if settings.greedy else settings

        def close(number: int, ended: list[Any]) -> None:
            outputs[number] = ended * (group // drawn.num_samples)
            if on_group is not None:
                on_group(number, self._completions(outputs[number]))

        self._engine.clear_prefix_cache()
        self._engine.sample([prompts.tokens(row) for row in range(num_prompts)], drawn, seed, close)
        completions = self._completions([output for ended in outputs for output in ended])
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes. They must be one token shorter than the engine's limit."""
        self._require_sync()
        return self._engine.score(token_ids)

    def sleep(self) -> None:
        """Free the engine's GPU memory until the next call, if `rollout.engine.sleep` is set."""
        self._engine.sleep()

    def close(self) -> None:
        """Drop the engine and free its memory."""
        self._engine.close()

    def _require_sync(self) -> None:
        if self.last_sync is None:
            raise ValueError("The engine's weights are random: call sync(policy) before the first generate or probe.")

    def _require_room(self, longest_prompt: int, max_tokens: int) -> None:
        longest, limit = longest_prompt + max_tokens, self._engine.max_model_len
        if longest > limit:
            raise UserError(
                f"The longest prompt ({longest_prompt} tokens) plus max_tokens ({max_tokens}) is {longest} tokens, but "
                f"the engine holds {limit}: raise rollout.engine.max_model_len (up to the model's own limit), or lower "
                "rollout.sampling.max_tokens (in evaluation, evaluation.overrides.max_tokens)."
            )

    def _completions(self, outputs: list[Any]) -> Completions:
        """Pad vLLM's completions into tensors."""
        return pad_responses(
            [output.token_ids for output in outputs],
            [output.logprobs.logprobs for output in outputs],
            [output.finish_reason == "length" for output in outputs],
            self.pad_token_id,
        )

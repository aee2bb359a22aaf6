"""Sampling with vLLM inside this process, on GPUs and CPUs.

The engine is built from the policy's configuration alone, with no weights and no tokenizer: the first `sync` fills it.
Token ids go in and come out; nothing is detokenised.

Determinism: vLLM draws from torch's global generator, which is seeded per call and put back afterwards (seeds per
request would cost a loop over requests at each token). The prefix cache is emptied first: whether a prompt is cached
already changes the computation's shapes, thus its rounding, and a resumed run starts with an empty cache.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling.adapters import AdapterPlan
from lambda_grpo_pl.sampling.protocol import OnGroup, SamplingSettings, SyncReport
from lambda_grpo_pl.sampling.rng import preserved_torch_rng
from lambda_grpo_pl.sampling.vllm.engine import VllmEngine, VllmSettings
from lambda_grpo_pl.sampling.weights import policy_weights, weight_names


class VllmSampler:
    """Samples with an engine of its own, which holds a copy of the weights as of the last `sync`.

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
    ) -> None:
        """Build the engine for the transformers configuration `config`; its weights are random until the first `sync`.

        With `adapters`, a LoRA policy's adapters are sent by themselves instead of merged.

        Raises:
            ValueError: If vLLM is absent or out of range, or cannot run this model on this device.
        """
        self.pad_token_id = pad_token_id
        self.last_sync: SyncReport | None = None
        self._merge = adapters is None
        self._engine = VllmEngine(config, eos_token_ids, settings, adapters)
        self._source: nn.Module | None = None

    def sync(self, policy: nn.Module) -> SyncReport:
        """Copy the weights; from a policy's second sync on, only what changed (see `policy_weights`)."""
        changed_only = policy is self._source
        due = weight_names(policy, changed_only, self._merge) if changed_only else None
        report = self.receive(policy_weights(policy, changed_only, self._merge), due)
        self._source = policy
        return report

    def receive(self, weights: Iterable[tuple[str, Tensor]], due: Collection[str] | None = None) -> SyncReport:
        """Copy (Hugging Face name, whole tensor) pairs; the report's `missing` is what of `due` (all) did not come."""
        start = time.perf_counter()
        sent: dict[str, int] = {}

        def counted() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                sent[name] = weight.numel() * weight.element_size()
                yield name, weight

        self._engine.load(counted())
        expected = set(self._engine.weight_names if due is None else due)
        missing = tuple(name for name in self._engine.weight_names if name in expected - sent.keys())
        self.last_sync = SyncReport(time.perf_counter() - start, sum(sent.values()), tuple(sent), missing)
        return self.last_sync

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            ValueError: Before the first `sync`, or if a prompt and its response may exceed the engine's limit.
        """
        self._require_sync()
        self._require_room(int(prompts.lengths.max()) + settings.max_tokens)
        num_prompts, group = len(prompts.lengths), settings.num_samples
        outputs: list[list[Any]] = [[] for _ in range(num_prompts)]
        drawn = replace(settings, num_samples=1) if settings.greedy else settings

        def close(number: int, ended: list[Any]) -> None:
            outputs[number] = ended * (group // drawn.num_samples)
            if on_group is not None:
                on_group(number, self._completions(outputs[number]))

        self._engine.forget_prompts()
        with preserved_torch_rng(seed):
            self._engine.sample([prompts.tokens(row) for row in range(num_prompts)], drawn, close)
        completions = self._completions([output for ended in outputs for output in ended])
        return Completions(*(field.to(prompts.ids.device) for field in completions))

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score sequences as `Sampler.probe` describes. They must be one token shorter than the engine's limit."""
        self._require_sync()
        with preserved_torch_rng(seed=0):
            return self._engine.score(token_ids)

    def close(self) -> None:
        """Drop the engine and free its memory."""
        self._engine.close()

    def _require_sync(self) -> None:
        if self.last_sync is None:
            raise ValueError("The engine's weights are random: call sync(policy) before the first generate or probe.")

    def _require_room(self, longest: int) -> None:
        if longest > self._engine.max_model_len:
            raise ValueError(
                f"The longest prompt plus max_tokens is {longest} tokens and the engine holds "
                f"{self._engine.max_model_len}: raise max_model_len (up to the model's own limit), or lower max_tokens."
            )

    def _completions(self, outputs: list[Any]) -> Completions:
        """Pad vLLM's completions into tensors."""
        ids = [torch.tensor(output.token_ids) for output in outputs]
        logprobs = [torch.tensor(output.logprobs.logprobs, dtype=torch.float32) for output in outputs]
        return Completions(
            ids=pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            lengths=torch.tensor([len(row) for row in ids]),
            truncated=torch.tensor([output.finish_reason == "length" for output in outputs]),
            logprobs=pad_sequence(logprobs, batch_first=True),
        )

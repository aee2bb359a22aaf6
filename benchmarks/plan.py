"""Is `lambda-grpo plan` right? Its computed peak against the measured peak of a real fit, on the CPU.

    python benchmarks/plan.py [--threads 2] [--case tiny]

Each case is a model with random weights, trained for two steps in a process of its own: sampling by transformers, two
or more micro-batches, AdamW. Measured is the second step, when AdamW's moments exist: weights, moments, and the most
that torch's allocator holds beside them (memory events of the profiler). The growth of the resident set is shown too,
from a process without the profiler; it contains the libraries' own buffers and what malloc keeps. Computed is the
largest phase of the plan for the same settings. Goal: within 15 %.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from report import in_a_process, resident_bytes, table, write
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config
from workload import make_trainer, quiet

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks import RewardCallback, RolloutCallback
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.prompts import PromptRules
from lambda_grpo_pl.planning.memory import plan_memory
from lambda_grpo_pl.planning.run import Placement, PlannedRun, SamplingRequest
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.sampling import SamplingSettings
from lambda_grpo_pl.training.config import ObjectiveConfig
from lambda_grpo_pl.training.module import LambdaGRPO

GOAL = 0.15
"""Largest acceptable error of the computed peak."""
PROMPT_TOKENS = 24


class Case(NamedTuple):
    """One model and batch."""

    shape: str
    num_prompts: int
    group_size: int
    max_tokens: int
    budget: int
    checkpointing: bool = False


CASES = {
    "tiny": Case("tiny", 8, 4, 64, 1024),
    "tiny, checkpointing": Case("tiny", 8, 4, 64, 1024, True),
    "135M, 49k": Case("135M", 4, 2, 48, 256),
    "0.5B, 152k": Case("0.5B", 2, 2, 32, 96),
}


def shape(name: str) -> PretrainedConfig:
    """The model's configuration, with the character tokenizer's special tokens."""
    tokenizer = character_tokenizer()
    tokens: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if name == "tiny":
        return Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            **tokens,
        )
    if name == "135M":
        return LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            **tokens,
        )
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **tokens,
    )


def settings(case: Case, path: str) -> PolicyConfig:
    return PolicyConfig(
        path=path,
        packing="packed",
        tokens_per_micro_batch=case.budget,
        gradient_checkpointing=case.checkpointing,
    )


def compute(case: Case) -> dict[str, float]:
    """The plan's peak in bytes."""
    rows = case.num_prompts * case.group_size
    run = PlannedRun(
        config=shape(case.shape),
        policy=settings(case, "random"),
        placement=Placement("single", 1, 1),
        device="cpu",
        mixed_precision=False,
        training=SamplingRequest("training", rows, PROMPT_TOKENS, case.max_tokens),
        evaluations=(),
        num_minibatches=1,
        group_size=case.group_size,
        separate_reference=False,
        optimizer_states="float32",
        validation_rule=False,
        fused=True,
        engine=None,
    )
    plan = plan_memory(run)
    return {"peak": plan.peak, **{phase: plan.total(phase) for phase in ("sampling", "training", "stepping")}}


class Meter(L.Callback):
    """Records what the second step takes beyond the weights and the optimizer's moments."""

    def __init__(self, profiled: bool) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if profiled else None
        self.held = self.resident = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx != 1:
            return
        moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        self.held = sum(tensor.numel() * tensor.element_size() for tensor in [*pl_module.parameters(), *moments])
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.resident = resident_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set starts again
        if self.profiler is not None:
            self.profiler.start()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.profiler is not None:
            self.profiler.stop()

    def peak(self) -> int:
        """Largest sum of what was held and what torch or, without the profiler, the process allocated since."""
        if self.profiler is None:
            return self.held + high_water_bytes() - self.resident
        events = self.profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
        memory = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        live = peak = 0
        for _, num_bytes in memory:
            live += num_bytes
            peak = max(peak, live)
        return self.held + peak


def high_water_bytes() -> int:
    """Return the peak of the resident set since `clear_refs`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(way: str, case: Case, threads: int) -> dict[str, float]:
    """Peak bytes of the second step of a real fit, in this process: torch's (`torch`) or all (`resident`)."""
    torch.set_num_threads(threads)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shape(case.shape), dtype=torch.float32).save_pretrained(folder)
        character_tokenizer().save_pretrained(folder)
        rows = [{"question": f"{number:>{PROMPT_TOKENS}}", "answer": "1"} for number in range(64)]
        data = PromptDataModule(
            folder, rows, [], rules=PromptRules(max_prompt_tokens=PROMPT_TOKENS + 8), batch_size=case.num_prompts
        )
        module = LambdaGRPO(settings(case, folder), objective=ObjectiveConfig(skip_zero_advantage=False))
        sampling = SamplingSettings(num_samples=case.group_size, max_tokens=case.max_tokens)
        meter = Meter(profiled=way == "torch")
        callbacks = [meter, RolloutCallback("transformers", sampling), RewardCallback([alternate])]
        trainer = make_trainer(2, callbacks)
        trainer.fit(module, datamodule=data)
        return {"peak": meter.peak()}


_turn = iter(range(10**9))


def alternate(completion: str, example: Any) -> float:
    return float(next(_turn) % 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--case", choices=list(CASES), action="append", help="Only these cases.")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child[0], Case(*json.loads(arguments.child[1])), arguments.threads)))
        return
    rows = [compare(name, arguments.threads) for name in arguments.case or CASES]
    table(
        ["case", "computed GiB", "measured GiB", "resident GiB", "error"],
        [
            [
                row["case"],
                *(f"{row[key] / 2**30:.3f}" for key in ("computed", "measured", "resident")),
                f"{row['error']:+.1%}",
            ]
            for row in rows
        ],
    )
    if not arguments.case:
        write("plan", {"goal": GOAL, "rows": rows}, ("torch", "transformers"))


def compare(name: str, threads: int) -> dict[str, Any]:
    """One case: computed, measured, and how far they are apart."""
    case = CASES[name]
    computed = compute(case)
    measured, resident = (in_a_process(__file__, way, case, threads)["peak"] for way in ("torch", "resident"))
    print(".", end="\n" if name == list(CASES)[-1] else "", flush=True, file=sys.stderr)
    return {
        "case": name,
        **case._asdict(),
        "computed": computed["peak"],
        "phases": {phase: computed[phase] for phase in ("sampling", "training", "stepping")},
        "measured": measured,
        "resident": resident,
        "error": computed["peak"] / measured - 1,
    }


if __name__ == "__main__":
    main()

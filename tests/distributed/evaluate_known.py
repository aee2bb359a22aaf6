"""Run by the tests: evaluate two benchmarks with known answers on some ranks, save on the first what was logged.

python -m tests.distributed.evaluate_known POLICY QUESTIONS OUT DEVICES
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy

from lambda_grpo_pl.callbacks import BenchmarkEvaluation
from lambda_grpo_pl.data.sources import PromptSource
from tests.known_answers import KnownAnswers, evaluate, right_where


def main(policy: str, questions: str, out: str, devices: str) -> None:
    torch.set_num_threads(1)
    sources = [PromptSource(benchmark=name, path=f"{questions}/{name}.jsonl") for name in ("gsm8k", "amc23")]
    sampler = KnownAnswers(right_where(lambda example, g: (example["index"] + g) % 3 == 0))
    strategy = DDPStrategy(process_group_backend="gloo") if int(devices) > 1 else "auto"
    logged, _ = evaluate(
        Path(out), Path(policy), sources, sampler, BenchmarkEvaluation(to_terminal=False), 2, int(devices), strategy
    )
    rank = os.environ.get("LOCAL_RANK", "0")
    (Path(out) / f"rank{rank}.json").write_text(json.dumps({"logged": logged, "asked": sampler.asked}))


if __name__ == "__main__":
    main(*sys.argv[1:])

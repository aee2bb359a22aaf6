"""Run by the tests: `fit` on two gloo ranks, sampling one step ahead, with a checkpoint after each step.

python -m tests.distributed.fit_resumable POLICY OUT STRATEGY RANK [CHECKPOINT]

RANK is that of LoRA adapters; 0 trains all weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.callbacks import RunSummary
from lambda_grpo_pl.callbacks.context import find_callback
from tests.integration.runs import run

STRATEGIES = {
    "ddp": "{class_path: DDPStrategy, init_args: {process_group_backend: gloo}}",
    "fsdp2": "{class_path: ModelParallelStrategy, init_args: {data_parallel_size: 2, tensor_parallel_size: 1, "
    "process_group_backend: gloo}}",
}


def main(policy: str, out: str, strategy: str, rank: str, checkpoint: str | None = None) -> None:
    torch.set_num_threads(1)
    folder = Path(out)
    keep = f"init_args: {{dirpath: {folder}, every_n_train_steps: 1, save_top_k: -1}}"
    cli = run(
        "fit",
        Path(policy),
        folder,
        "--trainer.devices=2",
        f"--trainer.strategy={STRATEGIES[strategy]}",
        f"--trainer.callbacks=[{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, {keep}}}]",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=1000",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        "--model.optimizer.lr=0.02",
        "--model.preference.lr=5.0",
        "--one_step_off.enabled=true",
        "--model.objective.surrogate.is_correction=truncate",
        *([f"--model.policy.lora.rank={rank}"] if rank != "0" else []),
        *([f"--ckpt_path={checkpoint}"] if checkpoint else []),
    )
    state = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in cli.model.state_dict().items()
    }
    if cli.trainer.is_global_zero:
        series = find_callback(cli.trainer, RunSummary).series
        torch.save({"state": state, "series": dict(series)}, folder / "result.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])

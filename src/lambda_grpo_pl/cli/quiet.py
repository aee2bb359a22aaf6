"""Silences what other libraries print at every start and a user can do nothing about."""

from __future__ import annotations

import logging
import os
import warnings

MESSAGES = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning with torch 2.13
    r".*torch\.distributed\.reduce_op.*",  # vLLM reading every attribute of torch.distributed
    r".*using manual optimization and every_n_train_steps.*",  # checkpoints are taken between updates
    r".*`IterableDataset` has `__len__` defined.*",
    r".*does not have many workers.*",  # prompts need none
    r"It is recommended to use `self\.log\(.*",  # vLLM's process group makes one rank look like several
    r".*lightning\.pytorch\.loggers\.wandb.*anonymous.*",
    r"Total length of `list` across ranks is zero.*",  # data.val: []
    r"LightningCLI's args parameter is intended to run from within Python.*",  # which `replay` does
    r"You defined a `validation_step` but have no `val_dataloader`.*",  # the plan says so
    r"Couldn't infer the batch indices fetched from your dataloader.*",  # predictions carry the ids of their questions
    r".*Checkpoint directory .* exists and is not empty.*",  # it also holds last.ckpt
)
LOGGED = (
    "💡",
    "Seed set to",
    "GPU available",
    "TPU available",
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_steps",
    "Restored all states from",
    "Restoring states from",
)
"""Parts of Lightning's messages that the plan, the seed's key and `--resume` say already."""


def quieten_libraries() -> None:
    """Silence notices that need no action; warnings about a run itself stay, as one sentence each."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # vLLM's memory binding on CPUs
    for library in ("lightning.pytorch", "lightning.fabric"):
        __import__(library)  # which adds the handlers, and a format for warnings
        for handler in logging.getLogger(library).handlers:
            handler.addFilter(_is_worth_reading)
    logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)  # read before vLLM sets its own level
    warnings.formatwarning = _format_warning


def quieten_transformers() -> None:
    """Hide transformers' bars for loading and writing weights, which takes seconds; downloads keep theirs."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    enable_progress_bars()


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in LOGGED)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line, without the place in the source that raised it."""
    return f"warning: {' '.join(str(message).split())}\n"

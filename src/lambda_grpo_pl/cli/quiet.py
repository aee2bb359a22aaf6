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
)


def quieten_libraries() -> None:
    """Silence notices that need no action; warnings about a run itself stay."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_not_a_tip)


def _is_not_a_tip(record: logging.LogRecord) -> bool:
    return "💡" not in record.getMessage()

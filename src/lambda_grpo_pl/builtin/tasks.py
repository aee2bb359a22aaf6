"""The built-in tasks by name, such as `builtin:arithmetic`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from lambda_grpo_pl.builtin.arithmetic import ArithmeticTask
from lambda_grpo_pl.builtin.ledger import LONG, LedgerTask
from lambda_grpo_pl.builtin.splits import Split
from lambda_grpo_pl.builtin.texts import TextTask
from lambda_grpo_pl.builtin.word_problems import WordProblemTask
from lambda_grpo_pl.errors import UserError

PREFIX = "builtin:"
DEFAULT_SIZES = {"train": 16384, "validation": 512, "test": 512}

TASKS: dict[str, Callable[[Split, int], Sequence[dict[str, str]]]] = {
    "arithmetic": ArithmeticTask,
    "ledger": LedgerTask,
    "long-ledger": partial(LedgerTask, num_digits=LONG),
    "two-ledgers": partial(LedgerTask, letters=True),
    "summary": partial(TextTask, kind="summary"),
    "translation": partial(TextTask, kind="translation"),
    "word-problems": WordProblemTask,
}


def read_task(path: str, split: str, size: int | None, key: str) -> Sequence[dict[str, str]]:
    """Return the rows of `builtin:<task>`. Raises `UserError` with the configuration `key` for an unknown task."""
    task = TASKS.get(path.removeprefix(PREFIX))
    if task is None:
        known = ", ".join(PREFIX + name for name in TASKS)
        raise UserError(f"{key}.path is {path}, but that built-in task does not exist: use {known}.")
    return task(cast(Split, split), size or DEFAULT_SIZES.get(split, 1))

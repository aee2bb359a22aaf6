"""Golds that a reward cannot judge, found before training: every response to such a row would train as wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.verdict import split_golds


def check_golds(rewards: Iterable[object], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Ask each reward that has a method `check_gold(gold)` about the golds of rows (name, example).

    Raises `UserError` with the name of the first row that one refuses, why, and how many more there are.
    """
    checks: list[Callable[[str], object]] = [reward.check_gold for reward in rewards if hasattr(reward, "check_gold")]

    @cache
    def complain(gold: str) -> str | None:
        for check in checks:
            try:
                check(gold)
            except UserError as error:
                return str(error)
        return None

    found: list[str] = []
    for where, example in rows if checks else ():
        found += [f"{where}: {reason}" for row in split_golds(example) if (reason := complain(str(row["answer"])))]
    if found:
        others = f" ({len(found) - 1} more golds are like this.)" if len(found) > 1 else ""
        raise UserError(found[0] + others)

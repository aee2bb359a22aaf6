"""Rewards that always fail, in a module that workers import quickly."""

import time


def always_raises(completion: str, example: object) -> float:
    raise KeyError("no such column")


def always_hangs(completion: str, example: object) -> float:
    time.sleep(3600)
    return 1.0

"""A part of the memory plan."""

from __future__ import annotations

from typing import NamedTuple

PHASES = ("sampling", "training", "stepping")
"""Phases of a step, as the fields of `Part` are called."""


class Part(NamedTuple):
    """Something that occupies memory, in bytes at the peak of each phase."""

    name: str
    sampling: float
    training: float
    stepping: float
    note: str = ""

"""Reads the golden numbers; `tests/data/objective/README.md` says what computed each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambda_grpo_pl.objective import LEARNABLE, LengthPreference, PreferenceConfig, count_tokens

from .strategies import MAX_LENGTH

DATA = Path(__file__).parents[1] / "data" / "objective"
CASES = sorted(path.stem for path in DATA.glob("p*.json"))


@dataclass(frozen=True)
class Case:
    """Inputs of one case and the records computed from them."""

    name: str
    num_prompts: int
    group_size: int
    inputs: dict[str, Tensor]
    records: list[dict[str, Any]]
    arrays: dict[str, Tensor]

    def select(self, source: str, call: str = "", **params: Any) -> list[dict[str, Any]]:
        """Records of one source whose call contains `call` and whose params have these values."""
        return [
            record
            for record in self.records
            if record["source"] == source
            and call in record["call"]
            and all(record["params"].get(name) == value for name, value in params.items())
        ]

    def output(self, record: dict[str, Any], name: str) -> Tensor:
        return self.arrays[record["arrays"][name]]

    def grouped(self, name: str) -> Tensor:
        """An input [N] as [B, G]."""
        return self.inputs[name].view(self.num_prompts, self.group_size)


@cache
def load(name: str) -> Case:
    index = json.loads((DATA / f"{name}.json").read_text())
    with np.load(DATA / f"{name}.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key].copy()) for key in archive.files}
    inputs = {key.removeprefix("in/"): value for key, value in arrays.items() if key.startswith("in/")}
    return Case(name, index["P"], index["G"], inputs, index["records"], arrays)


def preference(lam: float, **settings: Any) -> LengthPreference:
    """A preference whose λ is float64, as the golden λ are: a parameter of float32 would round it."""
    model = LengthPreference(PreferenceConfig(bound=max(5.0, abs(lam)), **settings)).double()
    model.lam.data.fill_(lam)
    return model


def build(family: str, lam: float = 0.0, **settings: object) -> LengthPreference:
    learnable = family in LEARNABLE
    learn = "surrogate" if learnable else "fixed"
    return preference(lam if learnable else 0.0, family=family, learn=learn, max_length=MAX_LENGTH, **settings)


def weigh(
    model: LengthPreference, lengths: Tensor, active: Tensor | None = None, advantages: Tensor | None = None
) -> Tensor:
    """f, every other response of a group being the better one unless `advantages` says so."""
    if advantages is None:
        advantages = alternating(lengths)
    return model(lengths, count_tokens(lengths, active).mean_length, active, advantages=advantages)


def alternating(lengths: Tensor) -> Tensor:
    """[B, G] advantages 1, −1, 1, …"""
    return (1.0 - 2.0 * (torch.arange(lengths.shape[1]) % 2)).expand(lengths.shape)

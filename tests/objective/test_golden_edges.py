"""λ-GRPO's f at its edges: equal lengths, outliers, h ≤ 0, G = 1, λ from −8 to 8."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lambda_grpo_pl.objective import count_tokens, preference_objective

from .golden import DATA, preference

RECORDS: list[dict[str, Any]] = json.loads((DATA / "lambda_edges.json").read_text())
FLOOR = 1e-2


def name(record: dict[str, Any]) -> str:
    return f"{record['name']}-{record['lam']}"


def check(record: dict[str, Any], closed_form: str, h_floor: float) -> None:
    """f, and d/dλ of Σ_i i·f_i."""
    model = preference(record["lam"], r=record["r"], h_floor=h_floor)
    lengths = torch.tensor([record["lengths"]])
    count = count_tokens(lengths)
    expected = torch.tensor([record[f"f_{closed_form}"]], dtype=torch.float64)
    torch.testing.assert_close(model(lengths, count.mean_length).detach(), expected, rtol=1e-10, atol=1e-12)
    ranks = torch.arange(lengths.shape[1], dtype=torch.float64)[None]
    objective = preference_objective(model, ranks * count.denominator, lengths, count)
    (slope,) = torch.autograd.grad(objective, model.lam)
    assert slope.item() == pytest.approx(record[f"dcf_{closed_form}"], rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("record", [record for record in RECORDS if record["min_h"] > FLOOR], ids=name)
def test_above_the_floor_f_is_the_papers(record: dict[str, Any]) -> None:
    check(record, "closed_noclamp", FLOOR)


@pytest.mark.parametrize(
    "record", [record for record in RECORDS if record["min_h"] <= FLOOR and abs(record["lam"]) <= 5], ids=name
)
def test_below_it_f_is_the_floors(record: dict[str, Any]) -> None:
    """With composer's floor of 1e-6 ours gives the numbers of that floor."""
    check(record, "closed_hmin1e6", 1e-6)

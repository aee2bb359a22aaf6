"""What three experiments share: changed methods, at the learning rates that `simulate` found, on fewer seeds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lab.simulator.arms import Arm
from benchmarks.lab.simulator.cells import Cell
from benchmarks.lab.store import is_done, read_cell
from lambda_grpo_pl.errors import UserError


def find_rate(simulated: Path, regime: str, arm: str, num_seeds: int) -> float:
    """Return the rate that `simulate` tuned. Raises `UserError` if that cell has not run."""
    name = Cell(regime=regime, arm=arm, num_seeds=num_seeds).name
    if not is_done(simulated / "cells", name):
        raise UserError(
            f"The learning rate of {arm} in {regime} is not known yet: run python -m benchmarks.lab simulate --seeds "
            f"{num_seeds} first."
        )
    return float(read_cell(simulated / "cells", name)[1]["rate"])


def change(regime: str, arm: str, variant: str, changed: Arm, rate: float | None, num_seeds: int) -> Cell:
    """Return the cell of a changed arm; `rate` None tunes it."""
    return Cell(regime=regime, arm=arm, variant=variant, changed_arm=changed, rate=rate, num_seeds=num_seeds)

"""SGD and Adam on arrays, with one learning rate per run."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BETAS, EPS = (0.9, 0.999), 1e-8


class Optimizer:
    """Ascends in place."""

    def __init__(self, kind: Literal["sgd", "adam"], rates: Floats, shape: tuple[int, ...]) -> None:
        self.kind = kind
        self.rates = rates.reshape(-1, *[1] * (len(shape) - 1))
        self.first, self.second, self.num_steps = np.zeros(shape), np.zeros(shape), 0

    def step(self, parameters: Floats, gradient: Floats) -> None:
        """Move `parameters` along `gradient`: plainly (SGD), or with the constants of the package's AdamW."""
        if self.kind == "sgd":
            parameters += self.rates * gradient
            return
        self.num_steps += 1
        first, second = BETAS
        self.first += (1 - first) * (gradient - self.first)
        self.second += (1 - second) * (gradient**2 - self.second)
        mean = self.first / (1 - first**self.num_steps)
        scale = np.sqrt(self.second / (1 - second**self.num_steps))
        parameters += self.rates * mean / (scale + EPS)

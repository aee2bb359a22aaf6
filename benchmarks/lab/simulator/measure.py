"""What is recorded of the simulated runs: curves over the updates, and a final test."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.simulator.kernels import Responses, scatter_along

if TYPE_CHECKING:
    from benchmarks.lab.simulator.preferences import Preferences

Floats = NDArray[np.float64]


class Curves(NamedTuple):
    """S runs, recorded in `blocks` parts of equally many updates."""

    values: dict[str, Floats]
    """Name → [blocks, S]: means over a block's updates, or the values at its last update (`Recorder.finish`)."""
    test: dict[str, Floats]
    """Name → [S]: the final test's accuracy, mean length and truncated share."""
    path: Floats
    """[updates, S] λ."""


class Recorder:
    """Collects the curves of a batch of runs."""

    def __init__(self, block: int, start: Floats) -> None:
        self.block = block
        self.start_policy = start
        self.tokens = np.zeros(len(start))
        self.sums: dict[str, Floats] = {}
        self.rows: list[dict[str, Floats]] = []
        self.path: list[Floats] = []
        self.update = -1

    def start(self, update: int, responses: Responses, policy: Floats, shape: tuple[int, int, int]) -> None:
        """Take in a rollout before it is learned from."""
        self.update = update
        self.tokens = self.tokens + responses.lengths.sum(-1)
        rewards = responses.correct.reshape(shape)
        self._add(
            accuracy=responses.correct.mean(-1),
            length=responses.lengths.mean(-1),
            truncated=responses.truncated.mean(-1),
            signal=(rewards.any(-1) & ~rewards.all(-1)).mean(-1),
            length_right=(responses.lengths * responses.correct).sum(-1),
            length_wrong=(responses.lengths * ~responses.correct).sum(-1),
            num_right=responses.correct.sum(-1),
            num_wrong=(~responses.correct).sum(-1),
        )
        if self._ends_block:
            visits = scatter_along(
                np.ones(responses.lengths.shape), responses.tokens, responses.lengths, policy[0].size
            )
            share = visits.reshape(policy.shape).sum(-1) / responses.lengths.sum(-1)[:, None]
            logs = np.log(np.maximum(policy, 1e-300))
            distance = (policy * (logs - np.log(np.maximum(self.start_policy, 1e-300)))).sum(-1)
            self._add(entropy=-((policy * logs).sum(-1) * share).sum(-1), kl=(distance * share).sum(-1))

    def finish(
        self,
        lengths: NDArray[np.int64],
        advantages: Floats,
        weights: Floats,
        gradient: Floats,
        preferences: Preferences,
    ) -> None:
        """Take in an update after its gradient: norms each time, statistics of lengths at a block's last update."""
        self.path.append(preferences.lam.numpy().copy())
        self._add(grad_norm=np.sqrt((gradient**2).sum((1, 2))), slope=preferences.slope.numpy())
        if not self._ends_block:
            return
        size = np.asarray(lengths, dtype=np.float64)
        centred = size - size.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).sum((1, 2)) * (advantages**2).sum((1, 2)))
        pull = weights * advantages
        force = pull * size
        total, net = np.abs(force).sum((1, 2)), force.sum((1, 2))
        self._add(
            correlation=(centred * advantages).sum((1, 2)) / np.maximum(scale, 1e-12),
            cv=size.std((1, 2)) / size.mean((1, 2)),
            prefix_bias=pull.sum((1, 2)) / np.maximum(np.abs(pull).sum((1, 2)), 1e-12),
            sign_balance=net / np.maximum(total, 1e-12),
            lam=self.path[-1],
        )
        self._close()

    @property
    def _ends_block(self) -> bool:
        return (self.update + 1) % self.block == 0

    def _add(self, **values: Floats) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def _close(self) -> None:
        """End a block: what was added at every update becomes a mean."""
        once = {"entropy", "kl", "correlation", "cv", "prefix_bias", "sign_balance", "lam"}
        counts = {name: self.sums.pop(f"num_{name}") for name in ("right", "wrong")}
        row = {name: value if name in once else value / self.block for name, value in self.sums.items()}
        for name, count in counts.items():
            mean = self.sums[f"length_{name}"] / np.maximum(count, 1)
            row[f"length_{name}"] = np.where(count > 0, mean, np.nan)
        row["tokens"] = self.tokens.copy()
        self.rows.append(row)
        self.sums = {}

    def curves(self, test: Responses) -> Curves:
        """Return everything recorded."""
        final = {
            "accuracy": test.correct.mean(-1),
            "length": test.lengths.mean(-1),
            "truncated": test.truncated.mean(-1),
        }
        values = {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        return Curves(values, final, np.stack(self.path))

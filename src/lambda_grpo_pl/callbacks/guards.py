"""Guards: what is not finite is not learned from, and signs that a run goes wrong are said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.guard_rules import (
    REPEATED,
    RULES,
    START,
    WINDOW,
    Evaluated,
    History,
    describe,
    find_broken,
    find_nonfinite,
    repeated_share,
)
from lambda_grpo_pl.callbacks.metric_names import AXIS
from lambda_grpo_pl.callbacks.metrics_file import read_rows, rows_before, write_rows
from lambda_grpo_pl.callbacks.recording import record_of, store_of
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.replay.store import DUMPS

NUM_DUMPS = 5
SEEN = ("reward/", "response/", "sampler/staleness")
"""Metrics of other callbacks that every rollout has."""
COLUMNS = [AXIS, "guard", "message"]


class Guards(L.Callback):
    """Warns once about each sign in `guard_rules.RULES`, or ends the run where the user says so.

    An update whose gradient is not finite changes no weight: the module drops it. This callback counts it, keeps its
    rollout in `<default_root_dir>/dumps` for `lambda-grpo replay`, and ends the run if too many follow each other.
    Every warning is also a row (update, guard, message) of `<default_root_dir>/guards.csv`.
    """

    def __init__(self, fatal: list[str] | None = None, off: list[str] | None = None, max_skipped: int = 3) -> None:
        """Keep the settings.

        Args:
            fatal: Guards that end the run instead of warning, by name; docs/guards.md lists them.
            off: Guards that are not looked at.
            max_skipped: Updates in a row that may be skipped because they are not finite; 0 ends the run at the first.
        """
        for key, names in (("fatal", fatal), ("off", off)):
            if unknown := sorted(set(names or ()) - set(RULES)):
                raise UserError(f"guards.{key} names {', '.join(unknown)}: choose from {', '.join(RULES)}.")
        if max_skipped < 0:
            raise UserError(f"guards.max_skipped is {max_skipped}: set it to 0 or more.")
        self.fatal, self.off, self.max_skipped = set(fatal or ()), set(off or ()), max_skipped
        self._start: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []
        self._rewards: list[float] = []
        self._evaluations: list[Evaluated] = []
        self._warned: set[str] = set()
        self._num_skipped = 0
        self._first_update = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the warnings of updates that are still to come."""
        path = _file(trainer)
        if trainer.is_global_zero and path.is_file():
            write_rows(path, COLUMNS, rows_before(path, trainer.global_step + 1))

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Note how many updates came before."""
        self._first_update = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Look at what was logged; the same on every rank. Raises `UserError` for a guard that is fatal."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(SEEN)}
        metrics = logged | outputs["metrics"]
        self._take_nonfinite(trainer, pl_module, outputs, batch, find_nonfinite(metrics))
        metrics[REPEATED] = float(trainer.strategy.reduce(_repeated(batch, pl_module.device), reduce_op="mean"))
        if len(self._start) < START:
            self._start.append(metrics)
        self._recent = [*self._recent, metrics][-WINDOW:]
        self._rewards.append(metrics.get("reward/mean", 0.0))
        self._look(trainer)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the score of an evaluation within the fit."""
        if not trainer.sanity_checking and self._rewards and "val/average" in trainer.callback_metrics:
            reward = sum(self._rewards) / len(self._rewards)
            self._evaluations.append(Evaluated(float(trainer.callback_metrics["val/average"]), reward))
            self._rewards = []
            self._look(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        """What was seen belongs to the run."""
        return {
            "start": self._start,
            "recent": self._recent,
            "rewards": self._rewards,
            "evaluations": [tuple(each) for each in self._evaluations],
            "warned": sorted(self._warned),
            "num_skipped": self._num_skipped,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the run stopped."""
        self._start, self._recent = state_dict["start"], state_dict["recent"]
        self._rewards = state_dict["rewards"]
        self._evaluations = [Evaluated(*each) for each in state_dict["evaluations"]]
        self._warned, self._num_skipped = set(state_dict["warned"]), state_dict["num_skipped"]

    # ------------------------------------------------------------------------------------------------ parts

    def _look(self, trainer: L.Trainer) -> None:
        history = History(self._start, self._recent, self._evaluations)
        for name in find_broken(history):
            if name in self.off or name in self._warned:
                continue
            message = describe(name, self._recent[-1])
            self._note(trainer, name, message)
            if name in self.fatal:
                raise UserError(f"The run ends, since guards.fatal names {name}. {message}")
            if not RULES[name].warned_by:
                rank_zero_warn(message)

    def _take_nonfinite(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, names: list[str]
    ) -> None:
        self._num_skipped = self._num_skipped + 1 if names else 0
        if not names:
            return
        record = record_of(trainer, pl_module, outputs, batch, self._first_update)
        store = store_of(trainer, DUMPS)
        store.write(record)
        store.bound(NUM_DUMPS, float("inf"), trainer.global_rank)
        origin = _find_origin(record.batch, record.learned)
        message = (
            f"Update {trainer.global_step} was skipped, since {' and '.join(names)} "
            f"{'is' if len(names) == 1 else 'are'} not finite; {origin}. Its rollout is in {store.folder}: "
            f"`lambda-grpo replay {trainer.default_root_dir} --step {trainer.global_step} --dump` learns from it "
            "again. If this repeats, lower model.optimizer.lr."
        )
        if self._num_skipped > self.max_skipped:
            self._note(trainer, "nonfinite", message)
            raise UserError(f"{message} The run ends, since guards.max_skipped is {self.max_skipped}.")
        if "nonfinite" not in self._warned:
            self._note(trainer, "nonfinite", message)
            rank_zero_warn(message)

    def _note(self, trainer: L.Trainer, name: str, message: str) -> None:
        self._warned.add(name)
        if trainer.is_global_zero:
            path = _file(trainer)
            path.parent.mkdir(parents=True, exist_ok=True)
            row = dict(zip(COLUMNS, (trainer.global_step, name, message), strict=True))
            write_rows(path, COLUMNS, [*read_rows(path), row])


def _file(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "guards.csv"


def _repeated(batch: RolloutBatch, device: torch.device) -> Tensor:
    extracted = [answer for _, answer in batch.scored().verdicts]
    golds = [example.get("answer") for example in batch.prompts.examples]
    return torch.tensor(repeated_share(extracted, golds), device=device)


def _find_origin(batch: RolloutBatch, learned: Any) -> str:
    """Say where the first value that is not finite comes from, as far as the rollout shows it."""
    places = {
        "the rewards": batch.scored().total,
        "the sampler's log-probabilities": batch.sampled().logprobs,
        "the policy's log-probabilities before the update": learned.get("old"),
        "the reference's log-probabilities": learned.get("reference"),
        "the advantages": learned.get("advantages"),
        "the surrogates": learned.get("surrogates"),
    }
    for name, values in places.items():
        if values is not None and not bool(values.isfinite().all()):
            rows = (~values.isfinite().reshape(len(values), -1).all(1)).sum()
            return f"the first such values are {name} of {int(rows)} of {len(values)} responses"
    return "the rollout itself is finite"

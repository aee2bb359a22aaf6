"""Loggers whose files belong to one training run: a resumed fit continues them, and validate, test and predict do not
touch them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lambda_grpo_pl.callbacks.metric_names import AXIS
from lambda_grpo_pl.callbacks.metrics_file import MetricsFile


class RunDescription(NamedTuple):
    """What a tracking service shows beside the metrics of a run."""

    name: str
    """Method, model and seed."""
    group: str
    """Method and model: runs that differ in their seed only share it."""
    tags: tuple[str, ...]
    """Method and model, to filter by."""
    config: Mapping[str, Any]
    """The resolved configuration, nested."""
    resumed: bool
    """Whether the fit continues from a checkpoint."""


@runtime_checkable
class RunLogger(Protocol):
    """A logger that writes nothing before its run starts; `PreferenceMonitor` starts it when a fit does."""

    def start_run(self, run: RunDescription) -> None:
        """Begin or continue the run's files. Called on the first rank only."""
        ...


class RunCSVLogger(CSVLogger):
    """Writes `<save_dir>/<name>/metrics.csv`, one row per logged step, each on disk at once.

    A new fit replaces the file. A resumed one continues it: rows of updates that are trained again are dropped, so
    every update appears once.
    """

    def __init__(self, save_dir: str, name: str = "csv") -> None:
        """Keep the settings.

        Args:
            save_dir: Folder of the run.
            name: Folder below it.
        """
        super().__init__(save_dir, name=name, version="")
        self._first_update = 0

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file; None while no fit is running."""
        return self._experiment

    def start_run(self, run: RunDescription) -> None:
        """Open the file, and empty it unless the run is resumed."""
        self._experiment: Any = MetricsFile(Path(self.log_dir) / "metrics.csv", run.resumed)
        self._experiment.update = self._first_update

    def continue_from(self, update: int) -> None:
        """Say how many updates the run has made; its checkpoint may be read before or after the run starts."""
        self._first_update = update
        if self._experiment is not None:
            self._experiment.update = update

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        """Write a row."""
        if self._experiment is not None:
            self._experiment.log_metrics(metrics, step)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Write nothing: the configuration is in config.yaml."""

    @override
    def save(self) -> None:
        """Every row is on disk already."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        self._experiment = None


class RunWandbLogger(WandbLogger):
    """Weights & Biases with the run's configuration, name, group and tags, and `update` as the x axis of every chart.

    A resumed fit continues the same W&B run: its id is kept in `<save_dir>/wandb/run-id`. The dashboard's layout is a
    view that `lambda_grpo_pl.callbacks.wandb_view` creates, once per project; `<save_dir>/wandb/upload.sh` uploads an
    offline run and creates the view.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "lambda-grpo",
        entity: str | None = None,
        offline: bool = True,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            save_dir: Folder of the run.
            project: W&B project.
            entity: W&B user or team; null: your default.
            offline: Write to disk only; `wandb sync` uploads it later.
            name: Name of the run; null: method, model and seed.
            group: Runs that are averaged in charts; null: method and model.
            tags: Further tags, besides method and model.
        """
        super().__init__(save_dir=save_dir, project=project, offline=offline)
        self.folder, self.project, self.entity = Path(save_dir), project, entity
        self.run_name, self.group, self.tags = name, group, tuple(tags or ())
        self.is_offline = offline

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; None while no fit is running."""
        return self._experiment

    def start_run(self, run: RunDescription) -> None:
        """Start the W&B run, or continue that of the checkpoint."""
        id_file = self.folder / "wandb" / "run-id"
        id_file.parent.mkdir(parents=True, exist_ok=True)
        known = id_file.read_text(encoding="utf-8") if run.resumed and id_file.is_file() else None
        self._experiment: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(self.folder),
            id=known,
            resume="allow",
            name=self.run_name or run.name,
            group=self.group or run.group,
            tags=[*run.tags, *self.tags],
            config=dict(run.config),
            mode="offline" if self.is_offline else None,
            reinit="create_new",
            settings=wandb.Settings(silent=self.is_offline),  # upload.sh says all that there is to say
        )
        id_file.write_text(self._experiment.id, encoding="utf-8")
        self._experiment.define_metric(AXIS)
        self._experiment.define_metric("*", step_metric=AXIS, step_sync=True)
        if not run.resumed:
            self._experiment.log({AXIS: 0.0}, commit=False)  # the base model's evaluation comes before any update
        self._write_upload_script()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send a step's metrics, if a fit is running."""
        if self._experiment is not None:
            super().log_metrics(metrics, step)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Send nothing: the run has the whole configuration."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the W&B run, so that its file is complete."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    def _write_upload_script(self) -> None:
        folders = sorted((self.folder / "wandb").glob(f"offline-run-*-{self._experiment.id}"))
        place = f"{self.entity}/{self.project}" if self.entity else self.project
        lines = ["#!/bin/sh", "# Uploads this run to Weights & Biases and creates the project's dashboard view."]
        lines += ['cd "$(dirname "$0")" || exit 1']  # the folder of the run may have moved
        sync = shlex.join(["wandb", "sync", *(each.name for each in folders)])
        lines += [f"{sync} || exit 1"] if folders else []  # none if online
        lines += [f"python -m lambda_grpo_pl.callbacks.wandb_view {shlex.quote(place)}"]
        (self.folder / "wandb" / "upload.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")

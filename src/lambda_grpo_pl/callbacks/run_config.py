"""The resolved configuration of a fit, on disk and for trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from typing_extensions import override


class RunConfig(SaveConfigCallback):
    """Writes `<default_root_dir>/config.yaml` when a fit starts, whatever loggers there are.

    validate, test and predict leave that of the run in place.

    Attributes:
        command: The command line of this fit; empty if code started it.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, command: str = "") -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.command = command

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file in a fit only."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file; called on the first rank."""
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default filled in."""
        return cast(dict[str, Any], json.loads(self.parser.dump(self.config, skip_none=False, format="json")))

"""The resolved configuration of a fit, on disk and for trackers."""

from __future__ import annotations

import json
from typing import Any, cast

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override


class RunConfig(SaveConfigCallback):
    """Writes config.yaml when a fit starts; validate, test and predict leave that of the run in place."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file in a fit only."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default filled in."""
        return cast(dict[str, Any], json.loads(self.parser.dump(self.config, skip_none=False, format="json")))

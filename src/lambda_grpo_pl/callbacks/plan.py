"""The start-up plan: what one step consists of, so that batch semantics need no guessing."""

from __future__ import annotations

import lightning as L
from rich.console import Console
from rich.table import Table

from lambda_grpo_pl.callbacks.lookup import find_callback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback
from lambda_grpo_pl.plan import describe_plan


class StartupPlan(L.Callback):
    """Prints prompts × G × updates, micro-batches, tokens and memory before the first step."""

    def __init__(self, show: bool = True) -> None:
        """Keep the setting.

        Args:
            show: Print the plan.
        """
        self.show = show

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print it on the first rank."""
        if not self.show or not trainer.is_global_zero:
            return
        table = Table(show_header=False, title="plan", title_justify="left")
        data = trainer.datamodule  # type: ignore[attr-defined]
        for row in describe_plan(trainer, pl_module, data, find_callback(trainer, RolloutCallback)):
            table.add_row(*row)
        Console().print(table)

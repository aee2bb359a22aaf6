"""A few completions to look at: numbers hide what a policy really writes."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table

from lambda_grpo_pl.batch import RolloutBatch

COLUMNS = ("prompt", "completion", "answer", "reward", "tokens")


class CompletionsTable(L.Callback):
    """Shows the best and the worst response of the first groups every few steps, in the terminal and on W&B."""

    def __init__(self, every: int = 100, num_prompts: int = 2, to_terminal: bool = True) -> None:
        """Keep the settings.

        Args:
            every: Steps between two tables; 0 shows none.
            num_prompts: Groups a table.
            to_terminal: Print the table too, not only log it to W&B.
        """
        self.every, self.num_prompts, self.to_terminal = every, num_prompts, to_terminal

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Show the table when its turn has come; on the first rank only, no collective."""
        if not self.every or batch.index % self.every or not trainer.is_global_zero:
            return
        rows = self.rows(trainer, batch)
        if self.to_terminal:
            table = Table(*COLUMNS, title=f"step {trainer.global_step}: best and worst of {self.num_prompts} groups")
            for row in rows:
                table.add_row(*(str(cell) for cell in row))
            Console().print(table)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_text("completions", columns=list(COLUMNS), data=rows)

    def rows(self, trainer: L.Trainer, batch: RolloutBatch) -> list[list[Any]]:
        """Best and worst response of each of the first groups, one list a row in the order of COLUMNS."""
        tokenizer: Any = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        completions = batch.sampled()
        rewards = batch.scored()
        totals = rewards.total.view(batch.num_prompts, -1)
        rows = []
        for number in range(min(self.num_prompts, batch.num_prompts)):
            example = batch.prompts.examples[number]
            for member in (int(totals[number].argmax()), int(totals[number].argmin())):
                row = number * batch.group_size + member
                text = tokenizer.decode(completions.tokens(row), skip_special_tokens=True)
                score = round(float(rewards.total[row]), 3)
                rows.append([example["prompt"], text, example["answer"], score, int(completions.lengths[row])])
        return rows

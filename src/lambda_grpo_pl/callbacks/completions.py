"""A few responses to look at: averages hide what a policy really writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule
from lambda_grpo_pl.data.printable import show_controls
from lambda_grpo_pl.rollout.responses import decode_response


class ShownResponse(NamedTuple):
    """One row of the table; the fields are its columns on W&B."""

    prompt: str
    completion: str
    answer: str
    reward: float
    tokens: int


class CompletionsTable(L.Callback):
    """Shows the best and the worst response of the first groups every few rollouts, in the terminal and on W&B."""

    def __init__(self, every: int = 100, num_prompts: int = 2, to_terminal: bool = True) -> None:
        """Keep the settings.

        Args:
            every: Rollouts between two tables; 0 shows none.
            num_prompts: Groups per table.
            to_terminal: Print the table too, not only log it to W&B.
        """
        self.every, self.num_prompts, self.to_terminal = every, num_prompts, to_terminal

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Show the table every `every` rollouts; on the first rank only, without communication."""
        if not self.every or batch.index % self.every or not trainer.is_global_zero:
            return
        rows = select_responses(batch, datamodule(trainer).tokenizer, self.num_prompts)
        if self.to_terminal:
            Console().print(_terminal_table(rows, f"update {trainer.global_step}: best and worst response of a group"))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                data = [list(row) for row in rows]
                logger.log_table("completions", columns=list(ShownResponse._fields), data=data)


def select_responses(batch: RolloutBatch, tokenizer: Any, num_prompts: int) -> list[ShownResponse]:
    """Return the best and the worst response of each of the first groups; one of a group whose rewards are equal."""
    completions, rewards = batch.sampled(), batch.scored()
    totals = rewards.total.view(batch.num_prompts, -1)
    rows = []
    for number, example in enumerate(batch.prompts.examples[:num_prompts]):
        best, worst = int(totals[number].argmax()), int(totals[number].argmin())
        for member in dict.fromkeys((best, worst)):
            row = number * batch.group_size + member
            text = decode_response(tokenizer, completions.tokens(row))
            reward, tokens = round(float(rewards.total[row]), 3), int(completions.lengths[row])
            rows.append(ShownResponse(example["prompt"], text, str(example["answer"]), reward, tokens))
    return rows


def _terminal_table(rows: list[ShownResponse], title: str) -> Table:
    """A table with each prompt once, above its responses."""
    table = Table("response", "answer", "reward", "tokens", title=title, title_justify="left")
    shown = None
    for row in rows:
        if row.prompt != shown:
            shown = row.prompt
            table.add_section()
            table.add_row(Text.assemble(("prompt: ", "bold"), show_controls(shown)))
        # As `Text`, so that rich does not read brackets in a model's text as markup.
        texts = [Text(show_controls(each)) for each in (row.completion, row.answer)]
        table.add_row(*texts, str(row.reward), str(row.tokens))
    return table

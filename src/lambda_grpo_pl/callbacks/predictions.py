"""`lambda-grpo predict`: what the policy answers, as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.callbacks.context import datamodule
from lambda_grpo_pl.rollout.responses import decode_response


class PredictionWriter(BasePredictionWriter):
    """Writes each question with its responses, sampled as in training, to `<default_root_dir>/<file>` as JSON lines.

    Nothing is scored. A line holds `set`, `id`, `index`, `prompt`, `answer` and the lists `completions`, `lengths`
    (tokens) and `truncated`.
    """

    def __init__(self, file: str = "predictions.jsonl") -> None:
        """Keep the setting.

        Args:
            file: File under trainer.default_root_dir.
        """
        super().__init__(write_interval="batch")
        self.file = file

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin this rank's part."""
        part = self._part(trainer, trainer.global_rank)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("", encoding="utf-8")

    @override
    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: RolloutBatch,
        batch_indices: Sequence[int] | None,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the questions of a batch."""
        lines = describe_predictions(prediction, datamodule(trainer).tokenizer)
        with self._part(trainer, trainer.global_rank).open("a", encoding="utf-8") as part:
            for line in lines:
                named = {"set": datamodule(trainer).val_names[dataloader_idx], **line}
                part.write(json.dumps(named, ensure_ascii=False) + "\n")

    @override
    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the ranks' parts, each question once, in the order of the sets."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
        target = Path(trainer.default_root_dir) / self.file
        num_questions = join_parts(parts, datamodule(trainer).val_names, target)
        print(f"{num_questions} questions with their responses: {target}")

    def _part(self, trainer: L.Trainer, rank: int) -> Path:
        return Path(trainer.default_root_dir) / f"{self.file}.rank{rank}"


def describe_predictions(batch: RolloutBatch, tokenizer: Any) -> list[dict[str, Any]]:
    """Return one mapping per question of a sampled batch."""
    completions, size = batch.sampled(), batch.group_size
    tokens = [completions.tokens(row) for row in range(len(completions.lengths))]
    columns = {
        "completions": [decode_response(tokenizer, row) for row in tokens],
        "lengths": completions.lengths.tolist(),
        "truncated": completions.truncated.tolist(),
    }
    return [
        {
            **{name: example[name] for name in ("id", "index", "prompt", "answer")},
            **{name: values[number * size : (number + 1) * size] for name, values in columns.items()},
        }
        for number, example in enumerate(batch.prompts.examples)
    ]


def join_parts(parts: list[Path], sets: list[str], target: Path) -> int:
    """Write the lines of all `parts` to `target`, remove the parts, and return the number of questions.

    A question that several ranks answered, to fill their last batch, is kept once.
    """
    lines = [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
    first: dict[tuple[int, int], str] = {}
    for line in lines:
        row = json.loads(line)
        first.setdefault((sets.index(row["set"]), row["index"]), line)
    target.write_text("".join(first[key] + "\n" for key in sorted(first)), encoding="utf-8")
    for part in parts:
        part.unlink()
    return len(first)

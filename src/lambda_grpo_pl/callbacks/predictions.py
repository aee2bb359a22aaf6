"""`lambda-grpo predict`: what the policy answers, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from lambda_grpo_pl.batch import RolloutBatch


class PredictionWriter(L.Callback):
    """Writes each question with its responses, sampled as in training, to `<default_root_dir>/<file>` as JSON lines.

    Nothing is scored. A line holds `set`, `id`, `index`, `prompt`, `answer` and the lists `completions`, `lengths`
    (tokens) and `truncated`.
    """

    def __init__(self, file: str = "predictions.jsonl") -> None:
        """Keep the setting.

        Args:
            file: File under trainer.default_root_dir.
        """
        self.file = file

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin this rank's part."""
        self._part(trainer, trainer.global_rank).parent.mkdir(parents=True, exist_ok=True)
        self._part(trainer, trainer.global_rank).write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch's questions."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        completions = batch.sampled()
        n = batch.group_size
        texts = data.tokenizer.batch_decode(
            [completions.tokens(row) for row in range(len(completions.lengths))], skip_special_tokens=True
        )
        lengths, truncated = completions.lengths.tolist(), completions.truncated.tolist()
        with self._part(trainer, trainer.global_rank).open("a", encoding="utf-8") as part:
            for number, example in enumerate(batch.prompts.examples):
                rows = slice(number * n, (number + 1) * n)
                line = {"set": data.val_names[dataloader_idx]}
                line |= {name: example[name] for name in ("id", "index", "prompt", "answer")}
                line |= {"completions": texts[rows], "lengths": lengths[rows], "truncated": truncated[rows]}
                part.write(json.dumps(line, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the ranks' parts, each question once, in the order of the sets."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
        lines = [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
        names: list[str] = trainer.datamodule.val_names  # type: ignore[attr-defined]
        first: dict[tuple[int, int], str] = {}
        for line in lines:
            row = json.loads(line)
            first.setdefault((names.index(row["set"]), row["index"]), line)
        target = Path(trainer.default_root_dir) / self.file
        target.write_text("".join(first[key] + "\n" for key in sorted(first)), encoding="utf-8")
        for part in parts:
            part.unlink()
        print(f"{len(first)} questions with their responses: {target}")

    def _part(self, trainer: L.Trainer, rank: int) -> Path:
        return Path(trainer.default_root_dir) / f"{self.file}.rank{rank}"

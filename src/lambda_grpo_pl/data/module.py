"""Prompts for training and validation, in an order that a resumed run continues to the row.

Training prompts are one endless stream: batch k is rows [k·B, (k+1)·B), of which rank r of W reads its B/W. The order
is a function of (seed, epoch) alone, so the state is how many batches were *trained on* (Lightning fetches one ahead)
and how far the further streams were drawn. To Lightning this is one epoch without end: `trainer.max_steps` ends it.
Left out: worker processes. Tokenizing a prompt takes a fraction of a millisecond and a step takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import lightning as L
from transformers import PreTrainedTokenizerBase

from lambda_grpo_pl.batch import Prompts, RolloutBatch
from lambda_grpo_pl.data.batching import TrainBatches, ValBatches, pad_prompts, share_prompts
from lambda_grpo_pl.data.benchmarks import Benchmark, register_benchmarks
from lambda_grpo_pl.data.prompts import EncodedPrompt, PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource, Rows, as_source, as_sources, validation_of
from lambda_grpo_pl.data.streams import PromptSequence, PromptStream, PromptTable
from lambda_grpo_pl.data.tokenizer import load_tokenizer
from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)

Stream = Literal["replacement", "heldout"]
TRAINING = "data.train"


class Position(NamedTuple):
    """How far a run has read; equal on all ranks."""

    num_batches: int
    """Training batches, counted from 0 across epochs and resumes."""
    cursors: dict[str, int]
    """Rows drawn from each further stream, on all ranks together."""


class PromptDataModule(L.LightningDataModule):
    """Reads prompt sources and hands out `RolloutBatch`es whose `prompts` are set."""

    def __init__(
        self,
        tokenizer_path: str,
        train: PromptSource | str | Rows | None = None,
        val: PromptSource | str | list[PromptSource | str] | Rows | None = None,
        heldout: PromptSource | str | Rows | None = None,
        benchmarks: list[Benchmark] | None = None,
        rules: PromptRules | None = None,
        batch_size: int = 32,
        val_batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Keep the settings; files are read and the tokenizer is loaded in `setup`.

        Args:
            tokenizer_path: Policy whose tokenizer reads the prompts: a folder, a hub id or `builtin:arithmetic-tiny`.
            train: Training prompts: a source, a path, or rows (a list of dicts, a `datasets.Dataset`); null takes the
                built-in arithmetic.
            val: Validation sets, one data loader each: a source, a path, a list of those, or rows; null takes the test
                split of a built-in task that is trained on, and none for other prompts.
            heldout: Prompts on which the `validation` rule tunes λ; must not overlap the training and `val` prompts.
            benchmarks: Further benchmarks, which sources then name like those of the registry.
            rules: What happens to long prompts and to rows that can't be used.
            batch_size: Prompts of one training step on all ranks together.
            val_batch_size: Questions of one validation batch on each rank.
            shuffle: Visit the training prompts in a new order each epoch.
            seed: Determines the order.
            revision: Branch, tag or commit of the tokenizer on the hub.
            trust_remote_code: Run tokenizer code that comes with the checkpoint.
        """
        super().__init__()
        if batch_size < 1 or val_batch_size < 1:
            raise UserError(
                f"data.batch_size is {batch_size} and data.val_batch_size {val_batch_size}: set both to 1 or more."
            )
        register_benchmarks(benchmarks or [], "data.benchmarks")
        self.tokenizer_path, self.revision, self.trust_remote_code = tokenizer_path, revision, trust_remote_code
        self.train_source = as_source(train if train is not None else PromptSource(), "data.train")
        self.val_sources = as_sources(val if val is not None else validation_of(self.train_source), "data.val")
        self.heldout_source = None if heldout is None else as_source(heldout, "data.heldout")
        self.rules = rules or PromptRules()
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.shuffle, self.seed = shuffle, seed
        self._streams: dict[str, PromptSequence] = {}
        self._val_rows: list[list[EncodedPrompt]] = []
        self._position = self._before_batch = Position(0, {"replacement": 0, "heldout": 0})
        self._resumed: dict[str, int] = {}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer."""
        return load_tokenizer(self.tokenizer_path, self.revision, self.trust_remote_code)

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end a response to a training prompt, besides the end-of-sequence token."""
        return self.train_source.prompt_template.stop

    @property
    def val_names(self) -> list[str]:
        """Name of each validation set, in the order of the data loaders."""
        return [source.name for source in self.val_sources]

    def read_rows(self, name: str = TRAINING) -> Sequence[EncodedPrompt]:
        """Return the prompts of a validation set, or those for training, after `setup`; none of a stream."""
        if name != TRAINING:
            return self._val_rows[self.val_names.index(name)]
        stream = self._streams["train"]
        return stream.rows if isinstance(stream, PromptTable) else ()

    @property
    def longest_prompts(self) -> dict[str, int]:
        """Tokens of the longest prompt of each set that was read in `setup`; the limit for a stream."""
        sets = dict(zip(self.val_names, self._val_rows, strict=True))
        longest = {name: max(len(row.ids) for row in rows) for name, rows in sets.items() if rows}
        if "train" in self._streams:
            longest[TRAINING] = max((len(row.ids) for row in self.read_rows()), default=self.rules.max_prompt_tokens)
        return longest

    def setup(self, stage: str) -> None:
        """Read what `stage` needs, once. Raises `UserError` for a source that can't be read (see `PromptReader`)."""
        if stage == "fit" and not self._streams:
            self._streams = self._open_streams()
        if not self._val_rows:
            rules = self.rules.without_skipping()
            self._val_rows = [
                PromptReader(source, rules, self.tokenizer, f"data.val[{number}]").read(unique_ids=True)
                for number, source in enumerate(self.val_sources)
            ]

    def train_dataloader(self) -> Iterable[RolloutBatch]:
        """Return this rank's batches from the current position on, without end."""
        self._check_training()
        return TrainBatches(self.train_batch, lambda: self._position.num_batches)

    def val_dataloader(self) -> list[ValBatches]:
        """Return a loader for each validation set: each question once, no shuffling."""
        rank, world_size = self._rank()
        return [ValBatches(rows, self.val_batch_size, self._pad, rank, world_size) for rows in self._val_rows]

    test_dataloader = predict_dataloader = val_dataloader

    def train_batch(self, index: int) -> RolloutBatch:
        """Return this rank's part of training batch `index`, B/W prompts, whatever was read before."""
        rank, world_size = self._rank()
        share = share_prompts(self.batch_size, world_size)
        rows = self._streams["train"].take(index * self.batch_size + rank * share, share)
        return RolloutBatch(pad_prompts(rows, self._pad), index)

    def draw(self, num_prompts: int, stream: Stream) -> Prompts:
        """Return this rank's next `num_prompts` of a further stream; every rank asks for the same number.

        `replacement` reads the training prompts in another order, `heldout` the held-out source. Both positions are
        part of the state. Raises `UserError` for `heldout` without a held-out source.
        """
        if stream not in self._streams:
            raise UserError(
                "There are no held-out prompts: set data.heldout to a source that is neither trained nor tested on."
            )
        rank, world_size = self._rank()
        cursor = self._position.cursors[stream]
        rows = self._streams[stream].take(cursor + rank * num_prompts, num_prompts)
        self._position = self._position._replace(
            cursors={**self._position.cursors, stream: cursor + num_prompts * world_size}
        )
        return pad_prompts(rows, self._pad)

    def on_after_batch_transfer(self, batch: RolloutBatch, dataloader_idx: int) -> RolloutBatch:
        """Note that training now begins on this batch: the loader itself is one batch ahead."""
        if self._trainer().training:
            self._before_batch = self._position._replace(num_batches=batch.index)
            self._position = self._position._replace(num_batches=batch.index + 1)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was trained on, and the settings it belongs to.

        `batch.index` tells which batch is the last; that its step has ended only the loop's progress tells.
        """
        progress: Any = self._trainer().fit_loop.epoch_loop.batch_progress.current
        position = self._position if progress.processed >= progress.ready else self._before_batch
        return {"position": position._asdict(), "settings": self._order_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the last batch that was trained on."""
        self._position = self._before_batch = Position(**state_dict["position"])
        self._resumed = state_dict["settings"]

    def _open_streams(self) -> dict[str, PromptSequence]:
        streams = {"train": self._sequence(self.train_source, "train")}
        train = streams["train"]
        if isinstance(train, PromptTable):
            streams["replacement"] = PromptTable(train.rows, self.seed, "replacement")
        else:
            streams["replacement"] = self._sequence(self.train_source, "replacement")
        if self.heldout_source is not None:
            streams["heldout"] = self._sequence(self.heldout_source, "heldout")
        return streams

    def _sequence(self, source: PromptSource, name: str) -> PromptSequence:
        reader = PromptReader(source, self.rules, self.tokenizer, "data.heldout" if name == "heldout" else "data.train")
        if source.streaming:
            return PromptStream(reader, self.seed, name, self.shuffle)
        rows = reader.read()
        if name == "train" and len(rows) < self.batch_size:
            log.warning(
                "data.train has %d prompts, fewer than data.batch_size (%d): a batch repeats prompts. Lower "
                "data.batch_size, or add prompts.",
                len(rows),
                self.batch_size,
            )
        return PromptTable(rows, self.seed, name, self.shuffle)

    def _order_settings(self) -> dict[str, int]:
        """The settings that a position in the streams depends on."""
        return {"batch_size": self.batch_size, "seed": self.seed}

    def _check_training(self) -> None:
        """Raise `UserError` for settings that do not fit the trainer, or the run being resumed."""
        share_prompts(self.batch_size, self._rank()[1])
        if self._trainer().max_steps == -1:
            raise UserError(
                "The prompt stream is endless, so trainer.max_steps must be set to the number of policy updates."
            )
        for name, value in self._resumed.items():
            if self._order_settings()[name] != value:
                raise UserError(
                    f"The checkpoint was trained with data.{name} {value}, but this run has "
                    f"{self._order_settings()[name]}, which would skip or repeat prompts: set it back, or start from "
                    "the exported model instead."
                )

    def _trainer(self) -> L.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _rank(self) -> tuple[int, int]:
        return self._trainer().global_rank, self._trainer().world_size

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

"""How rows become what the policy reads.

Rows that cannot be used are skipped, counted and named by line, or end the run, as configured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from lambda_grpo_pl.data.readers import ANSWER_FORMATS, read_text
from lambda_grpo_pl.data.sources import BadRowError, PromptSource, open_rows, parse_line
from lambda_grpo_pl.data.templates import encode, render

log = logging.getLogger(__name__)

NAMED_ROWS = 5  # how many of the rows left out a warning names


class EncodedPrompt(NamedTuple):
    """One row, ready for the policy."""

    ids: list[int]
    """Prompt tokens."""
    example: dict[str, Any]
    """The row with `id`, `index`, `question`, `answer`, `prompt` (the text as sent) and its other columns."""


@dataclass(kw_only=True)
class PromptRules:
    """What becomes of rows that cannot be used as they are."""

    max_prompt_tokens: int = 1024
    """Longest prompt, template included."""
    on_long_prompt: Literal["skip", "truncate", "error"] = "skip"
    """Longer prompts: leave them out, keep their last `max_prompt_tokens` tokens, or stop."""
    on_bad_row: Literal["skip", "error"] = "error"
    """Rows that are no JSON object, or whose question or answer is empty or has no readable gold."""

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens is {self.max_prompt_tokens}: set it to 1 or more.")

    def without_skipping(self) -> PromptRules:
        """The rules for test questions: leaving one out silently would change the score."""
        on_long_prompt: Literal["truncate", "error"] = "truncate" if self.on_long_prompt == "truncate" else "error"
        return replace(self, on_long_prompt=on_long_prompt, on_bad_row="error")


class PromptReader:
    """Reads one source; `skipped` names the rows that were left out and why."""

    def __init__(self, source: PromptSource, rules: PromptRules, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keep what to read; nothing is opened yet."""
        self.source, self.rules, self.tokenizer = source, rules, tokenizer
        self.skipped: list[str] = []
        self.num_read = 0

    def read(self) -> list[EncodedPrompt]:
        """Return every usable row.

        Raises `ValueError` naming file and line for a missing column, an unusable row under `error`, and no row at all.
        """
        rows = list(self.encode_all(open_rows(self.source)))
        self.require_rows(len(rows))
        if self.skipped:
            log.warning(
                "%s: %d of %d rows left out: %s%s",
                self.source.name,
                len(self.skipped),
                self.num_read,
                "; ".join(self.skipped[:NAMED_ROWS]),
                "; …" if len(self.skipped) > NAMED_ROWS else "",
            )
        return rows

    def open_stream(self) -> Any:
        """Return the source as a `datasets.IterableDataset`."""
        from datasets import IterableDataset, load_dataset  # slow to import

        if self.source.on_hub:
            return load_dataset(self.source.path, self.source.config, split=self.source.split, streaming=True)
        return IterableDataset.from_generator(_as_columns, gen_kwargs={"source": self.source})

    def named(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Pair each row of `open_stream` with what to call it in messages."""
        for index, row in enumerate(rows):
            if self.source.on_hub:
                yield f"{self.source.path} ({self.source.split}), row {index} of the stream", row
            else:
                yield row["where"], row["raw"]

    def encode_all(self, rows: Iterable[tuple[str, Any]]) -> Iterator[EncodedPrompt]:
        """Encode rows (name, mapping or JSON text), leaving out what the rules say."""
        for where, raw in rows:
            self.num_read += 1
            try:
                encoded = self._encode(where, self._example(raw, index=self.num_read - 1))
            except BadRowError as error:
                if self.rules.on_bad_row == "error":
                    raise ValueError(
                        f"{where}: {error}; correct the row, or set data.rules.on_bad_row to skip."
                    ) from error
                self.skipped.append(f"{where}: {error}")
                continue
            if encoded is not None:
                yield encoded

    def require_rows(self, num_rows: int) -> None:
        """Raise `ValueError` if there is nothing to train on."""
        if num_rows == 0:
            reason = (
                f"all {self.num_read} rows were left out, first {self.skipped[0]}" if self.skipped else "it is empty"
            )
            raise ValueError(
                f"No usable prompt in {self.source.path or self.source.benchmark}: {reason}. Check path, split "
                "and columns, or raise data.rules.max_prompt_tokens."
            )

    def _example(self, raw: Any, index: int) -> dict[str, Any]:
        row = parse_line(raw) if isinstance(raw, str) else raw
        source = self.source
        if source.benchmark is not None:
            return cast(dict[str, Any], row)
        try:
            question = read_text(row, source.question_column)
            answer = ANSWER_FORMATS[source.answer_format](read_text(row, source.answer_column))
        except KeyError as error:
            raise BadRowError(
                f"no column {error}, only {', '.join(row)} (question_column and answer_column name the columns to read)"
            ) from error
        except ValueError as error:
            raise BadRowError(str(error)) from error
        identity = str(row.get("id", f"{source.name}-{index:06d}"))
        return {**row, "id": identity, "index": index, "question": question, "answer": answer}

    def _encode(self, where: str, example: dict[str, Any]) -> EncodedPrompt | None:
        prompt = render(self.source.default_template, example["question"], self.tokenizer)
        ids = encode(self.source.default_template, example["question"], self.tokenizer)
        longest = self.rules.max_prompt_tokens
        if len(ids) > longest:
            if self.rules.on_long_prompt == "error":
                raise ValueError(
                    f"{where}: the prompt has {len(ids)} tokens and data.rules.max_prompt_tokens is {longest}: "
                    "raise it, or set data.rules.on_long_prompt to truncate (for training prompts, skip does as well)."
                )
            if self.rules.on_long_prompt == "skip":
                self.skipped.append(f"{where}: {len(ids)} tokens")
                return None
            ids = ids[-longest:]
            prompt = str(self.tokenizer.decode(ids))
        return EncodedPrompt(ids, {**example, "prompt": prompt})


def _as_columns(source: PromptSource) -> Iterator[dict[str, Any]]:
    for where, raw in open_rows(source):
        yield {"where": where, "raw": raw}

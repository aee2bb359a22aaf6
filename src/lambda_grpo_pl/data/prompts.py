"""How rows become what the policy reads.

Rows that cannot be used are skipped, counted and named, or end the run, as configured.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from lambda_grpo_pl.data.columns import UNJUDGEABLE, Columns, read_answers, read_question
from lambda_grpo_pl.data.printable import show_controls
from lambda_grpo_pl.data.readers import BadRowError, NamedRow, Row
from lambda_grpo_pl.data.sources import PromptSource, open_rows
from lambda_grpo_pl.data.templates import encode
from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)

NAMED_ROWS = 5  # how many of the skipped rows a warning names


class EncodedPrompt(NamedTuple):
    """One row, ready for the policy."""

    ids: list[int]
    """Prompt tokens."""
    example: dict[str, Any]
    """The row with `id`, `index`, `question`, `answer`, `prompt` (the text as sent) and its other columns; `answers`
    lists every acceptable gold where there are several."""
    where: str = ""
    """What messages call the row: file and line."""


@dataclass(kw_only=True)
class PromptRules:
    """What happens to rows that cannot be used as they are."""

    max_prompt_tokens: int = 1024
    """Longest prompt, template included."""
    on_long_prompt: Literal["skip", "truncate", "error"] = "skip"
    """Longer prompts: skip them, keep their last `max_prompt_tokens` tokens, or stop."""
    on_bad_row: Literal["skip", "error"] = "error"
    """Rows that cannot be parsed, or whose question or gold is empty or cannot be used."""

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 1:
            raise UserError(f"data.rules.max_prompt_tokens is {self.max_prompt_tokens}: set it to 1 or more.")

    def without_skipping(self) -> PromptRules:
        """The rules for test questions: skipping one silently would change the score."""
        on_long_prompt: Literal["truncate", "error"] = "truncate" if self.on_long_prompt == "truncate" else "error"
        return replace(self, on_long_prompt=on_long_prompt, on_bad_row="error")


class PromptReader:
    """Reads one source; `skipped` names the rows that were skipped and why."""

    def __init__(
        self, source: PromptSource, rules: PromptRules, tokenizer: PreTrainedTokenizerBase, key: str = "data.train"
    ) -> None:
        """Keep what to read; nothing is opened yet. Messages name the settings of the source below `key`."""
        self.source, self.rules, self.tokenizer, self.key = source, rules, tokenizer, key
        self.skipped: list[str] = []
        self.num_read = 0
        self._unjudgeable: Counter[str] = Counter()

    def read(self, unique_ids: bool = False) -> list[EncodedPrompt]:
        """Return every usable row.

        Raises `UserError` naming file and line for an unusable row under `error`, for two rows of one id where ids must
        be unique, and where no row is usable.
        """
        rows = list(self.encode_all(open_rows(self.source, self.key)))
        self.require_rows(len(rows))
        if unique_ids:
            (repeated, count), *_ = Counter(row.example["id"] for row in rows).most_common(1)
            if count > 1:
                raise UserError(
                    f"{self.source.label}: {count} rows have the id {repeated!r}; give each question its own."
                )
        if self.skipped:
            log.warning(
                "%s: %d of %d rows skipped: %s%s",
                self.source.name,
                len(self.skipped),
                self.num_read,
                "; ".join(self.skipped[:NAMED_ROWS]),
                "; …" if len(self.skipped) > NAMED_ROWS else "",
            )
        if self._unjudgeable:
            log.warning(
                "%s: %d of %d golds say that there is no answer (%s): no response can be right. Remove them.",
                self.source.name,
                self._unjudgeable.total(),
                self.num_read,
                ", ".join(f"{gold!r} {count}×" for gold, count in self._unjudgeable.most_common()),
            )
        return rows

    def encode_all(self, rows: Iterable[NamedRow]) -> Iterator[EncodedPrompt]:
        """Encode named rows, skipping what the rules say."""
        for where, row in rows:
            self.num_read += 1
            try:
                if isinstance(row, BadRowError):
                    raise row
                encoded = self._encode(where, row, index=self.num_read - 1)
            except BadRowError as error:
                if self.rules.on_bad_row == "error":
                    raise UserError(f"{where}: {error}. {self._remedy()}") from error
                self.skipped.append(f"{where}: {error}")
                continue
            if encoded is not None:
                yield encoded

    def require_rows(self, num_rows: int) -> None:
        """Raise `UserError` if there is nothing to train on."""
        if num_rows == 0:
            reason = (
                f"all {self.num_read} rows were skipped; the first: {self.skipped[0]}"
                if self.skipped
                else "it is empty"
            )
            raise UserError(
                f"No usable prompt in {self.source.label}: {reason}. Check {self.key}.path, split and columns, or "
                "raise data.rules.max_prompt_tokens."
            )

    def _remedy(self) -> str:
        if self.source.benchmark is not None:
            return "Fix the row, or remove it and report that with the score."
        return (
            f"Fix the row, check {self.key}.question_column and {self.key}.answer_column, or, for training prompts, "
            "set data.rules.on_bad_row to skip."
        )

    def _encode(self, where: str, row: Row, index: int) -> EncodedPrompt | None:
        source, columns = self.source, self.source.columns
        if source.benchmark is not None and not columns.present_in(row):
            columns = Columns()  # a local copy in plain columns
        question = read_question(row, columns.question)
        answers = read_answers(row, columns)
        if isinstance(question, list):
            source.holds_messages = True
        self._unjudgeable.update(gold for gold in answers if gold.casefold() in UNJUDGEABLE)
        try:
            prompt, ids = encode(source.prompt_template, question, self.tokenizer)
        except UserError as error:
            raise UserError(f"{self.key}.template: {error}") from error
        longest = self.rules.max_prompt_tokens
        if len(ids) > longest:
            if self.rules.on_long_prompt == "error":
                raise UserError(
                    f"{where}: the prompt has {len(ids)} tokens, but data.rules.max_prompt_tokens is {longest}: "
                    "raise it, or set data.rules.on_long_prompt to truncate (or, for training prompts, to skip)."
                )
            if self.rules.on_long_prompt == "skip":
                self.skipped.append(f"{where}: {len(ids)} tokens")
                return None
            ids = ids[-longest:]
            prompt = str(self.tokenizer.decode(ids))
        example = {
            **row,
            "id": str(row.get("id", f"{source.name}-{index:06d}")),
            "index": index,
            "question": question if isinstance(question, str) else question[-1]["content"],
            "answer": answers[0],
            "prompt": prompt,
        }
        if columns.answer_list == "any":
            example["answers"] = answers
        if source.benchmark is not None:
            example["benchmark"] = source.benchmark
        return EncodedPrompt(ids, example, where)


def preview_prompts(
    sources: Sequence[PromptSource], rules: PromptRules, tokenizer: PreTrainedTokenizerBase, num_prompts: int
) -> str:
    """Return the text, token ids and gold of the first `num_prompts` prompts of each source, as the policy reads them.

    Raises `UserError` for a source that cannot be read, as an evaluation would.
    """
    blocks = []
    for number, source in enumerate(sources):
        first = replace(source, limit=num_prompts)
        for ids, example, _ in PromptReader(first, rules, tokenizer, f"data.val[{number}]").read():
            blocks += [
                f"── {source.name}, {example['id']}: template {first.prompt_template.label!r}, {len(ids)} tokens",
                show_controls(example["prompt"]),
                f"── token ids {ids}",
                f"── gold {example['answer']!r}\n",
            ]
    return "\n".join(blocks)

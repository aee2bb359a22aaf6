"""Chat markers in a question's text, such as `<|im_end|>`: read as text, never as control tokens.

A question that contains one could otherwise end its turn and write the assistant's. Templates keep theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_PLACEHOLDER = 0xF0000
"""Start of a plane of Unicode for private use: one character stands for each marker while the template is applied."""


class Markers:
    """The control tokens of a tokenizer as they may occur in text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look up the tokenizer's special tokens."""
        self._tokenizer = tokenizer
        tokens = sorted({str(token) for token in tokenizer.all_special_tokens}, key=len, reverse=True)
        self._placeholders = {token: chr(FIRST_PLACEHOLDER + number) for number, token in enumerate(tokens)}
        self._pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def occur_in(self, text: str) -> bool:
        """Whether a text contains a control token."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def hide(self, text: str) -> str:
        """Return the text with a placeholder for each control token."""
        assert self._pattern is not None
        return self._pattern.sub(lambda match: self._placeholders[match[0]], text)

    def show(self, text: str) -> str:
        """Undo `hide`."""
        for token, placeholder in self._placeholders.items():
            text = text.replace(placeholder, token)
        return text

    def encode(self, text: str, begin: bool) -> list[int]:
        """Return the token ids of a text with hidden control tokens, which are encoded as the characters they are.

        Args:
            text: What `hide` and a template made.
            begin: Whether the tokenizer adds its begin-of-sequence token.
        """
        known = {placeholder: token for token, placeholder in self._placeholders.items()}
        parts = re.split(f"([{''.join(known)}])", text)
        ids: list[int] = []
        for number, part in enumerate(parts):
            if part in known:
                ids += _encode(self._tokenizer, known[part], split_special_tokens=True)
            elif part or number == 0:
                ids += _encode(self._tokenizer, part, add_special_tokens=begin and number == 0)
        return ids


def _encode(
    tokenizer: Callable[..., dict[str, list[int]]],
    text: str,
    add_special_tokens: bool = False,
    split_special_tokens: bool = False,
) -> list[int]:
    return tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=split_special_tokens)[
        "input_ids"
    ]

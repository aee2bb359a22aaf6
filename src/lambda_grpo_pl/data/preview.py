"""The first prompts of each set, exactly as the policy reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from lambda_grpo_pl.data.prompts import PromptReader, PromptRules
from lambda_grpo_pl.data.sources import PromptSource


def preview_prompts(
    sources: Sequence[PromptSource], rules: PromptRules, tokenizer: PreTrainedTokenizerBase, num_prompts: int
) -> str:
    """Return the text, token ids and gold of the first `num_prompts` prompts of each source.

    Raises `ValueError` for a source that can't be read, as an evaluation would.
    """
    blocks = []
    for source in sources:
        for ids, example in PromptReader(replace(source, limit=num_prompts), rules, tokenizer).read():
            blocks += [
                f"── {source.name}, {example['id']}: template {source.default_template!r}, {len(ids)} tokens",
                example["prompt"],
                f"── token ids {ids}",
                f"── gold {example['answer']!r}\n",
            ]
    return "\n".join(blocks)

"""Rewards for summarization and translation: overlap with the reference `example["answer"]`, in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.registry import register
from lambda_grpo_pl.rewards.verdict import accept_any_gold


@register("rouge", graded=True)
class Rouge:
    """ROUGE F-measure (Lin 2004) by rouge-score; `kind` is rouge1, rouge2, rougeL or rougeLsum."""

    def __init__(self, kind: str = "rougeL", stem: bool = True) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        if kind not in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
            raise UserError(f"rouge: kind must be rouge1, rouge2, rougeL or rougeLsum, got {kind!r}.")
        self.kind = kind
        self.scorer = RougeScorer([kind], use_stemmer=stem)

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> float:
        """The F-measure, in [0, 1]."""
        return float(self.scorer.score(str(example["answer"]), completion)[self.kind].fmeasure)


@register("chrf", graded=True)
class Chrf:
    """Sentence chrF (Popović 2015) by sacrebleu over 100; `word_order` 2 is chrF++."""

    def __init__(self, word_order: int = 0) -> None:
        from sacrebleu.metrics import CHRF

        self.metric = CHRF(word_order=word_order)

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> float:
        """The score, in [0, 1]."""
        return float(self.metric.sentence_score(completion, [str(example["answer"])]).score) / 100


@register("bleu", graded=True)
class Bleu:
    """Sentence BLEU (Papineni 2002) by sacrebleu over 100, with effective order so that short sentences are not 0.

    `tokenize` is sacrebleu's tokenizer (`13a`, `zh`, `char`, …). As a reward per sentence; corpus BLEU is not its mean.
    """

    def __init__(self, tokenize: str = "13a") -> None:
        from sacrebleu.metrics import BLEU

        self.metric = BLEU(effective_order=True, tokenize=tokenize)

    @accept_any_gold
    def __call__(self, completion: str, example: Mapping[str, Any]) -> float:
        """The score, in [0, 1]."""
        return float(self.metric.sentence_score(completion, [str(example["answer"])]).score) / 100

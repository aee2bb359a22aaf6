"""The tasks from text to text: their references, and how length and quality go together in what a writer makes."""

import random

import pytest
import torch

from lambda_grpo_pl.builtin.models import MODELS
from lambda_grpo_pl.builtin.tasks import read_task
from lambda_grpo_pl.builtin.texts import DRAW, TRANSLATED, Kind, TextTask, TextTraces
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.registry import build

REWARDS = {"translation": "chrf", "summary": "rouge"}


def test_a_translation_changes_the_alphabet_and_the_order() -> None:
    row = TextTask("train", 1)[0]
    source = row["question"].removesuffix("=")
    swapped = [letter for start in range(0, 6, 2) for letter in (source[start + 1], source[start])]
    assert row["answer"].split() == [TRANSLATED[letter] for letter in swapped]
    assert len(set(TRANSLATED.values())) == len(TRANSLATED)


def test_a_summary_is_the_first_word_of_each_sentence() -> None:
    row = TextTask("train", 1, kind="summary")[0]
    sentences = row["question"].removesuffix("=").split(".")
    assert row["answer"].split() == [sentence[0] for sentence in sentences]
    assert len(set("".join(sentences))) == 16


@pytest.mark.parametrize("kind", DRAW)
def test_references_score_one_and_longer_or_shorter_texts_less(kind: Kind) -> None:
    reward = build(REWARDS[kind], {})
    for row in read_task(f"builtin:{kind}", "test", 20, "data.train"):
        assert float(reward(row["answer"], row)) == pytest.approx(1)
        assert 0 < float(reward(f"{row['answer']} z z z z", row)) < 0.9
        assert 0 < float(reward(row["answer"][: len(row["answer"]) // 2], row)) < 0.9


@pytest.mark.parametrize("kind", DRAW)
def test_a_writer_who_does_not_stop_writes_long_texts(kind: Kind) -> None:
    rng, traces = random.Random(0), TextTraces(kind=kind)
    lengths = torch.tensor([len(traces.draw(rng, progress=1.0)[1].split()) for _ in range(2000)]).double()
    reference = len(TextTask("train", 1, kind=kind)[0]["answer"].split())
    assert lengths.mean() > reference + 1
    assert lengths.std() / lengths.mean() > 0.5


def test_splits_share_no_question_and_rows_depend_on_seed_split_and_number() -> None:
    train, test = TextTask("train", 2000), TextTask("test", 200)
    assert not {row["question"] for row in train} & {row["question"] for row in test}
    assert TextTask("test", 50)[:20] == TextTask("test", 20)[:]
    assert TextTask("test", 20, seed=1)[:] != TextTask("test", 20)[:]


def test_every_task_has_a_model() -> None:
    assert {f"{kind}-tiny" for kind in DRAW} <= set(MODELS)


def test_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="translation"):
        TextTraces(kind="poem")  # type: ignore[arg-type]

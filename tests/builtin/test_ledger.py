"""The built-in task whose wrong answers are long: its questions, and the statistics of its warm-up data."""

import random

import pytest
import torch

from lambda_grpo_pl.builtin.arithmetic import MARKER
from lambda_grpo_pl.builtin.ledger import Ledger, LedgerTask, LedgerTraces, draw_ledger
from lambda_grpo_pl.builtin.tasks import read_task
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.errors import UserError

LIMIT = 128


def test_a_solution_is_the_running_total_after_each_step() -> None:
    ledger = Ledger(7, (4, -2, 9))
    assert ledger.question == "7+4-2+9="
    assert ledger.totals == [1, 9, 8]
    assert ledger.solution == "+41-29+98####8"


def test_the_last_total_is_the_value_of_the_question_modulo_10() -> None:
    for row in LedgerTask("train", 200):
        assert int(row["answer"]) == eval(row["question"].rstrip("=")) % 10
        assert row["solution"].endswith(f"{MARKER}{row['answer']}")


def test_splits_share_no_question_and_rows_depend_on_seed_split_and_number() -> None:
    splits = {
        split: {row["question"] for seed in (0, 1) for row in LedgerTask(split, size, seed)}
        for split, size in (("train", 2000), ("validation", 200), ("test", 400))
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["validation"]
    assert not splits["validation"] & splits["test"]
    assert LedgerTask("test", 50)[:20] == LedgerTask("test", 20)[:]
    assert LedgerTask("test", 20, seed=1)[:] != LedgerTask("test", 20)[:]


def test_warm_up_data_ties_length_to_correctness() -> None:
    """40 % right; right ones about 15 tokens, wrong ones about 55 of at most 128; CV near 1; some truncated."""
    tokenizer, rng, traces = character_tokenizer(), random.Random(0), LedgerTraces()
    pairs = [traces.draw(rng, progress=1.0) for _ in range(4000)]
    right = torch.tensor([text.rpartition(MARKER)[2] == str(eval(q.rstrip("=")) % 10) for q, text in pairs])
    lengths = torch.tensor([min(len(tokenizer.encode(text)) + 1, LIMIT) for _, text in pairs]).float()
    assert float(right.float().mean()) == pytest.approx(0.4, abs=0.03)
    assert float(lengths[right].mean()) == pytest.approx(15, abs=0.5)
    assert float(lengths[~right].mean()) == pytest.approx(55, abs=4)
    assert float(lengths.std() / lengths.mean()) > 0.8
    assert 0.02 < float((lengths == LIMIT).float().mean()) < 0.12
    correlation = torch.corrcoef(torch.stack([lengths, right.float()]))[0, 1]
    assert float(correlation) < -0.5


def test_a_tail_has_the_given_mean() -> None:
    rng = random.Random(1)
    ledger = draw_ledger(rng, "train")
    short, long = (
        sum(len(LedgerTraces(mean_tail=mean).lose_track(ledger, rng)) for _ in range(1500)) / 1500 for mean in (5, 50)
    )
    assert long - short == pytest.approx(45, abs=4)


def test_errors_begin_after_the_clean_part() -> None:
    rng = random.Random(2)
    assert all(len(LedgerTraces().draw(rng, progress=0.5)[1]) < 25 for _ in range(300))


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"data\.train\.path is builtin:poetry, .*use builtin:arithmetic, builtin:ledger"
    ):
        read_task("builtin:poetry", "train", None, "data.train")

"""The task of the length regimes: its questions, and what each habit makes of length and correctness."""

import random
from typing import Any

import pytest
import torch

from lambda_grpo_pl.builtin.arithmetic import MARKER
from lambda_grpo_pl.builtin.ledger import DIGITS, LETTERS, LONG, SHORT, Ledger, LedgerTask, LedgerTraces, draw_ledger
from lambda_grpo_pl.builtin.models import MODELS
from lambda_grpo_pl.builtin.tasks import read_task
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.registry import build

LIMIT = 96


def gold(question: str) -> str:
    digits = question.rstrip("=").translate(str.maketrans("abcde", "01234"))
    return str(sum(map(int, digits)) % 5)


def draw(traces: LedgerTraces, size: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths (tokens, the end included, cut at the limit) and correctness, as the task's reward judges it."""
    tokenizer, rng, reward = character_tokenizer(), random.Random(0), build("numeric", {})
    pairs = [traces.draw(rng, progress=1.0) for _ in range(size)]
    lengths = torch.tensor([min(len(tokenizer.encode(text)) + 1, LIMIT) for _, text in pairs]).float()
    right = [reward(text, {"answer": gold(question)}).score == 1 for question, text in pairs]
    return lengths, torch.tensor(right)


def correlation(lengths: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([lengths, right.float()]))[0, 1])


def test_a_solution_is_the_total_after_each_digit() -> None:
    ledger = Ledger((3, 4, 2, 1))
    assert (ledger.question, ledger.totals, ledger.answer) == ("3421=", "3240", "0")


def test_the_answer_is_the_sum_of_the_digits_modulo_5() -> None:
    for row in LedgerTask("train", 200):
        assert row["answer"] == gold(row["question"])
        assert row["solution"].endswith(f"{MARKER}{row['answer']}")
        assert len(row["question"]) == SHORT + 1


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


def test_the_long_ledger_has_longer_questions() -> None:
    assert {len(row["question"]) for row in read_task("builtin:long-ledger", "test", 20, "data.val")} == {LONG + 1}


@pytest.mark.parametrize("habit", ["wander", "ramble", "stop", "continue", "switch"])
@pytest.mark.parametrize("padding", [0.0, 9.0])
def test_whoever_loses_count_is_never_right_and_others_always_are(habit: Any, padding: float) -> None:
    _, right = draw(LedgerTraces(habit=habit, right_share=0.0, mean_padding=padding), 300)
    assert not right.any()
    _, right = draw(LedgerTraces(habit=habit, right_share=1.0, mean_padding=padding), 300)
    assert right.all()


def test_what_is_written_before_the_loss_is_right_and_each_digit_is_equally_risky() -> None:
    rng, traces = random.Random(3), LedgerTraces(habit="stop")
    places = torch.zeros(SHORT)
    for _ in range(4000):
        ledger = draw_ledger(rng, "train", SHORT)
        written = traces.lose_count(ledger, rng)
        assert written == ledger.totals[: len(written) - 1] + "?"
        places[len(written) - 1] += 1
    torch.testing.assert_close(places / 4000, torch.full((SHORT,), 1 / SHORT), atol=0.02, rtol=0)


@pytest.mark.parametrize(("habit", "alphabet"), [("wander", set("01234")), ("ramble", set("abcdefgh"))])
def test_a_useless_tail_makes_wrong_answers_long(habit: Any, alphabet: set[str]) -> None:
    lengths, right = draw(LedgerTraces(habit=habit, right_share=0.3, mean_tail=40))
    assert float(lengths[right].float().mean()) == SHORT + 3, "totals, marker, answer, end"
    assert float(lengths[~right].mean()) == pytest.approx(42, abs=3)
    assert correlation(lengths, right) < -0.45
    assert 0.02 < float((lengths == LIMIT).float().mean()) < 0.12
    text = LedgerTraces(habit=habit, mean_tail=40).lose_count(Ledger((1,) * SHORT), random.Random(0))
    assert set(text.partition("?")[2]) <= alphabet


def test_who_switches_goes_on_in_what_would_be_valid_in_another_question() -> None:
    lengths, right = draw(LedgerTraces(habit="switch", right_share=0.3, mean_tail=40))
    assert float(lengths[right].mean()) == SHORT + 3
    assert float(lengths[~right].mean()) == pytest.approx(42, abs=3)
    assert correlation(lengths, right) < -0.45
    rng, traces = random.Random(0), LedgerTraces(habit="switch", right_share=0.0)
    for _ in range(200):
        question, text = traces.draw(rng, progress=1.0)
        valid = LETTERS if question[0] in LETTERS else DIGITS
        begun = text.rstrip(DIGITS if valid == LETTERS else LETTERS)
        assert len(begun) < SHORT
        assert set(begun) <= set(valid)
        assert text != begun


def test_half_of_the_two_ledgers_questions_are_in_letters() -> None:
    rows = read_task("builtin:two-ledgers", "train", 400, "data.train")
    assert sum(row["question"][0] in LETTERS for row in rows) == pytest.approx(200, abs=40)
    for row in rows:
        assert row["answer"] == gold(row["question"])
        alphabet = LETTERS if row["question"][0] in LETTERS else DIGITS
        assert set(row["question"][:-1] + row["solution"].partition(MARKER)[0]) <= set(alphabet)


def test_stopping_at_the_error_makes_wrong_answers_short() -> None:
    lengths, right = draw(LedgerTraces(habit="stop", num_digits=LONG, right_share=0.3))
    assert float(lengths[right].mean()) == LONG + 3
    assert float(lengths[~right].mean()) == pytest.approx(LONG / 2 + 1.5, abs=0.5)
    assert correlation(lengths, right) > 0.6


def test_carrying_on_makes_all_answers_equally_long() -> None:
    lengths, right = draw(LedgerTraces(habit="continue", right_share=0.3), 500)
    assert set(lengths.tolist()) == {SHORT + 3}
    assert 0 < float(right.float().mean()) < 1


def test_padding_varies_the_length_of_right_and_wrong_answers_alike() -> None:
    lengths, right = draw(LedgerTraces(habit="continue", right_share=0.3, mean_padding=25))
    assert abs(correlation(lengths, right)) < 0.05
    assert float(lengths.std() / lengths.mean()) > 0.5


def test_errors_begin_after_the_clean_part() -> None:
    rng, traces = random.Random(2), LedgerTraces(habit="wander", right_share=0.0, clean_share=0.5)
    assert not any("?" in traces.draw(rng, progress=0.49)[1] for _ in range(100))
    assert all("?" in traces.draw(rng, progress=0.5)[1] for _ in range(100))


def test_an_unknown_habit_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="habit is 'sing': choose one of wander, ramble, stop, continue"):
        LedgerTraces(habit="sing")  # type: ignore[arg-type]


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"data\.train\.path is builtin:poetry, .*use builtin:arithmetic, builtin:ledger"
    ):
        read_task("builtin:poetry", "train", None, "data.train")


def test_the_regimes_differ_in_their_warm_up_data_alone() -> None:
    names = ("ledger-tiny", "fail-fast-tiny", "ramble-tiny", "padding-tiny", "equal-lengths-tiny")
    sizes = {(MODELS[name].hidden_size, MODELS[name].num_layers, MODELS[name].batch_size) for name in names}
    assert len(sizes) == 1

"""The built-in task and its tokenizer."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo_pl.builtin.arithmetic import MARKER, STYLES, ArithmeticTask, Problem, draw_problem, solve
from lambda_grpo_pl.builtin.tokenizer import PAD, VOCABULARY, character_tokenizer

TOKENIZER = character_tokenizer()


def problems() -> st.SearchStrategy[Problem]:
    return st.integers(0, 10_000).map(lambda seed: draw_problem(random.Random(seed), "train", 4))


@given(problems(), st.sampled_from(STYLES))
@settings(max_examples=200, deadline=None)
def test_a_worked_solution_ends_in_the_right_answer(problem: Problem, style: str) -> None:
    text, _, answer = solve(problem, style).rpartition(MARKER)
    assert int(answer) == problem.answer == eval(problem.question.rstrip("="))
    assert MARKER not in text


@given(problems())
@settings(max_examples=100, deadline=None)
def test_every_step_of_a_worked_solution_is_true(problem: Problem) -> None:
    *steps, _ = solve(problem, "columns").split(";")
    for step in steps:
        expression, value = step.split("=")
        assert eval(expression) == int(value)


def test_solutions_spread_from_4_to_80_tokens() -> None:
    problem = Problem(247, "+", 85)
    lengths = {style: len(TOKENIZER.encode(solve(problem, style))) + 1 for style in STYLES}
    assert lengths == {"answer": 5, "columns": 29, "checked": 59, "written": 63}
    rng = random.Random(0)
    drawn = [len(TOKENIZER.encode(solve(draw_problem(rng, "train", 3), rng.choice(STYLES)))) + 1 for _ in range(500)]
    assert min(drawn) <= 4
    assert max(drawn) >= 65


def test_a_slip_runs_through_to_a_wrong_answer() -> None:
    rng = random.Random(0)
    problem = Problem(702, "-", 35)
    slipped = {solve(problem, "columns", rng, slip_rate=1.0) for _ in range(20)}
    assert all(text.rpartition(MARKER)[2] != "667" for text in slipped)
    assert solve(problem, "columns", rng, slip_rate=0.0) == "12-5=7;9-3=6;6-0=6;####667"


def test_slips_come_as_often_as_asked() -> None:
    """Columns are independent: a 3-digit problem is right with probability (1 - rate)³."""
    rng = random.Random(1)
    right = sum(solve(Problem(345, "+", 231), "answer", rng, 0.2) == "####576" for _ in range(4000)) / 4000
    assert right == pytest.approx(0.8**3, abs=0.03)


def test_row_i_depends_on_seed_split_and_i_alone() -> None:
    assert ArithmeticTask("test", 50)[:20] == ArithmeticTask("test", 20)[:]
    assert ArithmeticTask("test", 20, seed=1)[:] != ArithmeticTask("test", 20)[:]


def test_splits_share_no_question_whatever_their_seeds() -> None:
    seen = {
        split: {row["question"] for seed in (0, 1) for row in ArithmeticTask(split, size, seed)}
        for split, size in (("train", 3000), ("validation", 300), ("test", 600))
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_heldout_questions_do_not_repeat() -> None:
    questions = [row["question"] for row in ArithmeticTask("test", 512)]
    assert len(set(questions)) == 512


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"split": "dev"}, "validation"), ({"max_digits": 1}, "2 digits"), ({"split": "test", "size": 9999}, "2048")],
)
def test_what_cannot_be_had_is_refused_with_what_to_change(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ArithmeticTask(**arguments)


@given(st.text(alphabet=VOCABULARY[4:], max_size=40), st.text(alphabet=VOCABULARY[4:], max_size=40))
@settings(max_examples=100, deadline=None)
def test_text_survives_the_tokenizer(before: str, after: str) -> None:
    text = before.replace("#", "") + MARKER + after.replace("#", "")
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert len(ids) == len(text) - len(MARKER) + 1


def test_tokenizer_reloads_from_its_folder(tmp_path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "12*3=2*3=6 put 6;####36"
    assert again.encode(text) == TOKENIZER.encode(text)
    assert again.decode(again.encode(text)) == text
    assert (again.pad_token, again.pad_token_id, again.eos_token_id) == (PAD, 0, 1)
    assert again.unk_token_id == again.encode("λ")[0]

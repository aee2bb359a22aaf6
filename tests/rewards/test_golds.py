"""A gold that a reward cannot judge is found before training, with the row that holds it."""

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import RewardSpec, RewardSuite

ROWS = [("a.jsonl:1", {"answer": "7"}), ("a.jsonl:2", {"answer": "Paris"}), ("a.jsonl:3", {"answer": "Rome"})]


def check(name, rows, **params):
    RewardSuite([RewardSpec(name=name, params=params)]).check_golds(rows)


def test_the_first_row_is_named_and_the_others_are_counted():
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*numeric requires a number.*'Paris'.*\(1 more golds"):
        check("numeric", ROWS)
    check("numeric", ROWS[:1])
    check("exact", ROWS)


def test_a_choice_is_one_of_the_letters():
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*one of the letters ABCDE.*'7'.*set the parameter letters"):
        check("multiple_choice", ROWS)
    for gold in ("B", "(b)", "b."):
        check("multiple_choice", [("a.jsonl:1", {"answer": gold})])
    check("multiple_choice", [("a.jsonl:1", {"answer": "G"})], letters="ABCDEFG")


def test_each_of_several_golds_is_asked_about():
    check("numeric", [("a.jsonl:1", {"answer": "7", "answers": ["7", "14/2"]})])
    with pytest.raises(UserError, match="'seven'"):
        check("numeric", [("a.jsonl:1", {"answer": "7", "answers": ["7", "seven"]})])

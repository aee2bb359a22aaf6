"""Each inline reward: its definition at a few points, and what it must not accept."""

import pytest

from lambda_grpo_pl.rewards.calls import CallUnit, RewardCaller


def score(name, completion, params=None, **example):
    caller = RewardCaller.build(name, params or {})
    return caller.score([CallUnit([completion], [example])])[0]


@pytest.mark.parametrize(
    ("completion", "params", "right"),
    [
        ("<think>why</think><answer>4</answer>", {}, True),
        (" <think>why</think>\n<answer>4</answer>\n", {}, True),
        ("why</think><answer>4</answer>", {"opened": True}, True),
        ("why</think><answer>4</answer>", {}, False),
        ("<think></think><answer>4</answer>", {}, False),
        ("<think>why</think><answer> </answer>", {}, False),
        ("<think>why</think>so <answer>4</answer>", {}, False),
        ("<think>why</think><answer>4</answer> done", {}, False),
        ("Hm <think>why</think><answer>4</answer>", {}, False),
        ("<think>a</think><think>b</think><answer>4</answer>", {}, False),
        ("<answer>4</answer><think>why</think>", {}, False),
    ],
)
def test_format_think(completion, params, right):
    assert score("format_think", completion, params).correct is right


@pytest.mark.parametrize(("completion", "right"), [(r"\boxed{4}", True), (r"\boxed{ }", False), (r"\boxed{4", False)])
def test_format_boxed(completion, right):
    assert score("format_boxed", completion).correct is right


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (80, 0), (90, -1), (100, -2), (500, -2)])
def test_overlong_falls_linearly_over_the_buffer(length, penalty):
    params = {"max_length": 100, "buffer": 20, "factor": 2.0}
    assert score("overlong", "", params, response_length=length).score == penalty


@pytest.mark.parametrize(
    ("prefer", "at_0", "at_50", "at_100", "at_300"),
    [("shorter", 1, 0.5, 0, 0), ("longer", 0, 0.5, 1, 1), ("close", 0, 0.5, 1, 0)],
)
def test_length_shaping(prefer, at_0, at_50, at_100, at_300):
    params = {"target": 100, "prefer": prefer}
    scores = [score("length", "", params, response_length=n, truncated=False).score for n in (0, 50, 100, 300)]
    assert scores == [at_0, at_50, at_100, at_300]
    assert score("length", "", params, response_length=100, truncated=True).score == 0


@pytest.mark.parametrize(
    ("completion", "right", "status"),
    [
        ("The answer is 1,234.", True, "ok"),
        (r"\boxed{1234.0}", True, "ok"),
        ("#### 1235", False, "ok"),
        (r"\boxed{x}", False, "no_answer"),
        ("1234", False, "no_answer"),
    ],
)
def test_numeric(completion, right, status):
    verdict = score("numeric", completion, answer="1234")
    assert (verdict.correct, verdict.status) == (right, status)


def test_numeric_tolerance_and_a_gold_that_is_no_number():
    assert score("numeric", "#### 3.1", {"tolerance": 0.1}, answer="3.14").correct
    assert not score("numeric", "#### 3.0", {"tolerance": 0.1}, answer="3.14").correct
    with pytest.raises(ValueError, match="requires a number"):
        score("numeric", "#### 3", answer="Paris")


def test_exact():
    assert score("exact", "The answer is  New   York.", answer="new york").correct
    assert not score("exact", "The answer is New York.", {"ignore_case": False}, answer="new york").correct
    assert score("exact", "yes\n", {"whole": True}, answer="yes").correct
    assert score("exact", "yes", answer="yes").status == "no_answer"


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("The answer is (B).", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("B", "B"),
        ("b) because", "B"),
        ("Answer: B. Paris", "B"),
        ("The answer is **C**", "C"),
        ("A or B", None),
        ("Answer: A, B", None),
        ("I think so", None),
        ("Z", None),
    ],
)
def test_multiple_choice(completion, letter):
    verdict = score("multiple_choice", completion, answer="B")
    assert (verdict.correct, verdict.status) == (letter == "B", "ok" if letter else "no_answer")


@pytest.mark.parametrize("name", ["rouge", "chrf", "bleu"])
def test_overlap_is_one_for_the_reference_and_zero_for_nothing_in_common(name):
    reference = "the quick brown fox jumps over the lazy dog"
    close = score(name, "the quick brown fox sleeps", answer=reference).score
    assert score(name, reference, answer=reference).score == pytest.approx(1.0)
    assert score(name, "0000", answer=reference).score == 0.0
    assert 0.0 < close < 1.0


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    """Three of four words in order: precision 3/4, recall 3/4."""
    assert score("rouge", "a b x d", {"stem": False}, answer="a b c d").score == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("completion", "params", "right"),
    [
        ('{"a": 1}', {"keys": ["a"]}, True),
        ('{"b": 1}', {"keys": ["a"]}, False),
        ("[1]", {"keys": ["a"]}, False),
        ('Here:\n```json\n{"a": 1}\n```\n', {"match_answer": True}, True),
        ('{"a": 2}', {"match_answer": True}, False),
        ("{a: 1}", {}, False),
        ("[" * 100_000, {}, False),
    ],
)
def test_json(completion, params, right):
    assert score("json", completion, params, answer='{"a": 1}').correct is right


def test_regex():
    assert score("regex", "x = 4; x = 5", {"pattern": r"x = (\d)"}, answer="5").correct
    assert not score("regex", "x = 5; x = 4", {"pattern": r"x = (\d)"}, answer="5").correct
    assert score("regex", "no", {"pattern": r"x = (\d)"}, answer="5").status == "no_answer"
    assert score("regex", "abc", {"pattern": "b"}, answer="").correct
    assert score("regex", "abc", {"pattern": "b", "full": True}, answer="").status == "no_answer"


def test_math_lenient_forgives_what_math_does_not():
    forgiven = [("42", "so we get 42"), ("28", r"\boxed{0.28}"), ("3.14159", r"\boxed{3.1416}")]
    assert [score("math_lenient", text, answer=gold).correct for gold, text in forgiven] == [True] * 3
    assert [score("math", text, answer=gold).correct for gold, text in forgiven] == [False] * 3
    assert not score("math_lenient", r"\boxed{43}", answer="42").correct
    assert score("math_lenient", r"\boxed{b+a}", answer="a+b").correct

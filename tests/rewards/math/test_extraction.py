"""Where the answer stands: the stated order, and nothing else."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo_pl.rewards.math.extraction import boxed_spans, extract_answer
from lambda_grpo_pl.rewards.math.normalization import normalize
from lambda_grpo_pl.rewards.math.quantities import read_quantity, same_quantity


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{1} is wrong, so \boxed{2}", "2"),
        (r"\boxed{1}, \boxed{2}", "1, 2"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{7} \boxed{7}", "7"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \boxed{b} c}", r"a \boxed{b} c"),
        (r"\boxed{\boxed{4}", "4"),
        (r"The answer is \boxed{4", None),
        (r"\boxed{}", None),
        (r"\boxed{1} #### 2", "1"),
        ("#### 1\n<answer>2</answer>", "2"),
        ("The answer is 1.\n#### 2", "2"),
        ("#### Conclusion\nThe answer is 3.", "3"),
        ("Answer: 41 was wrong.\nAnswer: 42", "42"),
        ("the answer is not 42; the answer is 43.", "43"),
        ("It is 42.", None),
        ("", None),
        (r"<think>\boxed{1}</think> The answer is 2.", "2"),
        (r"<think>\boxed{1}", None),
        ("The answer is 3.5 meters, as we saw.", "3.5"),
        ("The answer is $x+1$, of course.", "x+1"),
        ("**Answer:** Paris.<|im_end|>", "Paris"),
        ("答案是 $5$。", "5"),
    ],
)
def test_the_first_rule_that_hits_gives_the_answer(completion, answer):
    assert extract_answer(completion) == answer


@given(st.text(alphabet="{}\\boxedf$ ,a1", max_size=80))
@settings(max_examples=300, deadline=None)
def test_boxes_are_balanced_ordered_and_disjoint_in_any_text(text):
    spans = boxed_spans(text)
    assert spans == sorted(spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(text[end] == "}" for _, end in spans)


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_extraction_or_normalisation_raise(text):
    normalize(text)
    extract_answer(text)
    extract_answer(rf"\boxed{{{text}}}")
    read_quantity(text)


@given(st.text(alphabet="0123456789.,-+ex{}\\^_/$% \t", max_size=30))
@settings(max_examples=300, deadline=None)
def test_normalisation_is_idempotent_on_numbers(text):
    once = normalize(text)
    if read_quantity(once) is not None:
        assert read_quantity(normalize(once)) == read_quantity(once)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
@settings(deadline=None)
def test_every_spelling_of_a_fraction_is_one_number(top, bottom):
    spellings = [rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", rf"-\frac{{{-top}}}{{{bottom}}}"]
    values = {read_quantity(normalize(spelling)).value for spelling in spellings}
    assert len(values) == 1


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_do_not_matter(number):
    spellings = [str(number), f"{number:,}", f"{number:,}".replace(",", r",\!"), f"{number:,}".replace(",", "{,}")]
    assert {read_quantity(normalize(spelling)).value for spelling in spellings} == {number}


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("2/3", "0.666667", True),
        ("2/3", "0.66667", False),
        ("2/3", "666667/1000000", False),
        ("5", "5.0", True),
        ("5", "5.1", False),
        ("0", "10^{-12}", False),
        ("0", "0.0000001", False),
        ("7.25e-11", "7.26e-11", False),
        (r"28\%", "28", True),
        (r"150\%", r"15\%", False),
        (r"2\frac34", "2.75", True),
        ("-(2)", "-2", True),
        ("10^{400}", "10^{400}", True),
    ],
)
def test_decimals_are_equal_to_six_places_and_exact_numbers_exactly(gold, answer, equal):
    assert same_quantity(read_quantity(normalize(gold)), read_quantity(normalize(answer))) is equal


@pytest.mark.parametrize(
    "text", ["10^{10^{10}}", "10^{99999999999999999999}", "9**9**9", "1/0", "x", "", "-", "1 2", "9" * 500]
)
def test_what_is_no_plain_number_or_an_absurd_one_is_not_read(text):
    assert read_quantity(text) is None

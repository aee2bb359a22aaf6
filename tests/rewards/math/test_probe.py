"""The probe may say nothing, but never that equal expressions differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo_pl.rewards.math.probe import differ, evaluate, identical


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2+1", "x^2-1"),
        (r"3\sqrt{13}", r"13\sqrt{3}"),
        (r"\frac{a}{b}", r"\frac{b}{a}"),
        (r"2\pi", "2"),
        ("2n", "n"),
        ("42", "(x+1)^{200}"),
        ("x_1", "x_2"),
        ("1+2i", "1-2i"),
    ],
)
def test_different_expressions_differ(gold, answer):
    assert differ(gold, answer)
    assert not differ(gold, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("-x^2", "0-x^2"),
        ("i", r"\sqrt{-1}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\sqrt[3]{2}", "2^{1/3}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x/2y", r"\frac{x}{2}y"),
        ("2^{-3}", r"\frac{1}{2^3}"),
        (r"e^{i\pi}", "-1"),
        ("C_1", "c_1"),
    ],
)
def test_equal_expressions_do_not_differ(gold, answer):
    assert evaluate(gold) == pytest.approx(evaluate(answer))
    assert not differ(gold, answer)


@pytest.mark.parametrize(
    "text",
    [
        "(1,2)",
        "x=1",
        "1 or 2",
        r"\sin x",
        "5!",
        r"2\frac{3}{4}",
        "204_5",
        "9^{9^9}",
        "1/0",
        "",
        "x+",
        "(x",
        "blue",
        r"5\%",
    ],
)
def test_what_lies_outside_the_grammar_has_no_value(text):
    assert evaluate(text) is None


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_rearranged_polynomials_never_differ(a, b, c):
    assert not differ(f"{a}x^2+{b}x-{c}", f"-{c}+{a} \\cdot x x+x({b})".replace(" x x", " x^2"))


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_rearranged_rational_expressions_are_identical_and_altered_ones_are_not(a, b, c):
    gold = rf"\frac{{{a}x+{b}}}{{x}}-{c}"
    assert identical(gold, rf"-{c}+{a}+{b}x^{{-1}}")
    assert not identical(gold, rf"-{c}+{a}+{b + 1}x^{{-1}}")


def test_exactness_does_not_depend_on_size():
    """Floating point cannot tell these apart; arithmetic modulo a prime can."""
    assert identical("2^{100}+x", "x+4^{50}")
    assert not identical("2^{100}+x", "2^{100}+x+1")
    assert not differ("2^{100}+x", "2^{100}+x+1")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("f(2)", "2f"),
        (r"2\sin(x)", r"\sin(2x)"),
        (r"\sqrt{x}", r"\sqrt{x}"),
        ("x/0", "x/0"),
        ("x^{1/2}", "x^{1/2}"),
        ("", ""),
    ],
)
def test_what_is_no_rational_expression_is_not_called_identical(gold, answer):
    assert not identical(gold, answer)


def test_pi_may_stand_for_a_variable():
    assert identical(r"\frac{\pi}{2}r+\frac{\pi}{2}", r"\pi(r+1)/2")

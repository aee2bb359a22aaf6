"""The built-in task: multi-digit arithmetic whose worked solutions vary a lot in length.

A question is the text the policy reads, such as `247+85=`; every solution ends in the marker and the number,
`####332`, which is the one convention that the `numeric` reward reads. Four styles say the same thing in
about 4 to 80 tokens of the character tokenizer (the marker is one token):

    answer    ####332
    columns   7+5=12;4+8+1=13;2+0+1=3;####332
    checked   7+5=12;4+8+1=13;2+0+1=3;again 7+5=12;4+8+1=13;2+0+1=3;####332
    written   7+5=12 put 2 carry 1;4+8+1=13 put 3 carry 1;2+0+1=3 put 3;####332

Left out: division, negative results, operands beyond the column method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from lambda_grpo_pl.builtin.splits import Split, draw_distinct, split_of
from lambda_grpo_pl.errors import UserError

MARKER = "####"
Style = Literal["answer", "columns", "checked", "written"]
STYLES: tuple[Style, ...] = get_args(Style)
OPERATORS = ("+", "-", "*")


class Column(NamedTuple):
    """One column of the written method, from the units upwards."""

    expression: str
    """What is computed, such as `4+8+1`."""
    value: int
    """Its result, such as 13; a slip makes it wrong."""


@dataclass(frozen=True)
class Problem:
    """left operator right, with right ≤ left for subtraction and 2 ≤ right ≤ 9 for multiplication."""

    left: int
    operator: str
    right: int

    @property
    def question(self) -> str:
        """The text the policy continues."""
        return f"{self.left}{self.operator}{self.right}="

    @property
    def answer(self) -> int:
        """The right number."""
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right

    @property
    def split(self) -> Split:
        """The split this question belongs to whatever the seed: 13/16 train, 1/16 validation, 2/16 test."""
        return split_of(self.question)


def draw_problem(rng: random.Random, split: Split, max_digits: int) -> Problem:
    """Draw a problem of `split` with a left operand of 2 … `max_digits` digits, all operators equally often."""
    while True:
        operator = rng.choice(OPERATORS)
        num_digits = rng.randint(2, max_digits)
        left = rng.randrange(10 ** (num_digits - 1), 10**num_digits)
        right = rng.randint(2, 9) if operator == "*" else rng.randrange(10 ** rng.randint(1, num_digits))
        if operator == "-":
            left, right = max(left, right), min(left, right)
        problem = Problem(left, operator, right)
        if problem.split == split:
            return problem


def solve(problem: Problem, style: Style, rng: random.Random | None = None, slip_rate: float = 0.0) -> str:
    """Write the worked solution.

    Each column's result is off by 1 or 2 with probability `slip_rate` (drawn from `rng`), and what follows is
    consistent with the slip, so a slip costs the answer and not the form.
    """
    columns, answer = _columns(problem, rng, slip_rate)
    if style == "answer":
        return f"{MARKER}{answer}"
    plain = "".join(f"{column.expression}={column.value};" for column in columns)
    if style == "columns":
        return f"{plain}{MARKER}{answer}"
    if style == "checked":
        return f"{plain}again {plain}{MARKER}{answer}"
    return "".join(_written(column, last=column is columns[-1]) for column in columns) + f"{MARKER}{answer}"


def _written(column: Column, last: bool) -> str:
    digit, carry = column.value % 10, column.value // 10
    tail = f"put {column.value}" if last else f"put {digit} carry {carry}" if carry else f"put {digit}"
    return f"{column.expression}={column.value} {tail};"


def _columns(problem: Problem, rng: random.Random | None, slip_rate: float) -> tuple[list[Column], int]:
    """Work from the units upwards; return the columns and the number they spell."""
    left = [int(digit) for digit in reversed(str(problem.left))]
    right = [int(digit) for digit in reversed(str(problem.right))] + [0] * len(left)
    columns: list[Column] = []
    answer, carry = 0, 0
    for place, digit in enumerate(left):
        last = place == len(left) - 1
        if problem.operator == "-":
            expression, value, borrow = _subtract(digit - carry, right[place])
        else:
            other = right[0] if problem.operator == "*" else right[place]
            expression = f"{digit}{problem.operator}{other}" + (f"+{carry}" if carry else "")
            value = (digit * other if problem.operator == "*" else digit + other) + carry
            borrow = 0
        if rng is not None and rng.random() < slip_rate:
            value = _slip(value, rng, limit=9 if problem.operator == "-" else None)
        columns.append(Column(expression, value))
        answer += 10**place * (value if last else value % 10)
        carry = borrow if problem.operator == "-" else value // 10
    return columns, answer


def _subtract(minuend: int, subtrahend: int) -> tuple[str, int, int]:
    """Return expression, digit and what is borrowed from the next column."""
    borrow = int(minuend < subtrahend)
    minuend += 10 * borrow
    return f"{minuend}-{subtrahend}", minuend - subtrahend, borrow


def _slip(value: int, rng: random.Random, limit: int | None) -> int:
    """Move a column's result by 1 or 2, within 0 … limit."""
    near = [value + step for step in (-2, -1, 1, 2)]
    return rng.choice([other for other in near if other >= 0 and (limit is None or other <= limit)])


@dataclass(kw_only=True)
class ArithmeticTraces:
    """Worked solutions for the warm-up: the method first without slips, then with them."""

    max_digits: int = 3
    """Digits of the largest operand."""
    style_weights: tuple[float, ...] = (0.2, 0.5, 0.12, 0.18)
    """Share of each style of worked solution: answer, columns, checked, written."""
    slip_rate: float = 0.12
    """Probability that a column of a solution is wrong, once slips begin."""
    clean_share: float = 0.75
    """Share of the warm-up before slips begin: the method is learned first, and the slips after it."""
    source: ClassVar[str] = "arithmetic.py"

    def __post_init__(self) -> None:
        if len(self.style_weights) != len(STYLES):
            raise UserError(f"style_weights has {len(self.style_weights)} entries: give one for each of {STYLES}.")

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question and a worked solution."""
        problem = draw_problem(rng, "train", self.max_digits)
        style = rng.choices(STYLES, self.style_weights)[0]
        return problem.question, solve(problem, style, rng, self.slip_rate if progress >= self.clean_share else 0.0)


class ArithmeticTask(Sequence[dict[str, str]]):
    """Rows `{"id", "question", "answer", "solution"}` of one split; row i depends on (seed, split, i) alone.

    The splits share no question, whatever their seeds. Questions of `validation` and `test` don't repeat; those of
    `train` may, as the small problems are few. `answer` is the number alone and `solution` the `columns` style.
    """

    def __init__(self, split: Split = "train", size: int = 16384, seed: int = 0, max_digits: int = 3) -> None:
        """Make `size` rows. Raises `UserError` for an unknown split, size or number of digits."""
        if max_digits < 2:
            raise UserError(f"max_digits is {max_digits}: the arithmetic task starts at 2 digits.")
        self.rows = [
            {
                "id": f"arithmetic-{split}-{index}",
                "question": problem.question,
                "answer": str(problem.answer),
                "solution": solve(problem, "columns"),
            }
            for index, problem in enumerate(
                draw_distinct(lambda rng: draw_problem(rng, split, max_digits), split, size, seed)
            )
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one row, or a list of rows for a slice."""
        return self.rows[index]

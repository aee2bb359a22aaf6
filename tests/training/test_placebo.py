"""The path of λ that the `placebo` rule follows, as a metrics file has it."""

from pathlib import Path

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.training.placebo import LambdaPath


def test_a_row_stands_for_the_updates_since_the_row_before(tmp_path: Path) -> None:
    """A run that makes two updates per rollout writes a row after each second one; rows without λ are evaluations."""
    file = tmp_path / "metrics.csv"
    file.write_text("update,preference/lambda,val/average\n0,,0.3\n2,0.5,\n4,-0.25,\n4,,0.4\n")
    path = LambdaPath(str(file))
    assert [path.at(update) for update in (1, 2, 3, 4, 5)] == [0.5, 0.5, -0.25, -0.25, -0.25]
    path.check(4)
    path.check(-1)
    with pytest.raises(UserError, match=r"ends at update 4, but trainer\.max_steps is 5"):
        path.check(5)


def test_rows_may_come_in_any_order_and_count_updates_as_loggers_write_them(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("preference/lambda,update\n1.5,4.0\n0.5,2.0\n")
    path = LambdaPath(str(file))
    assert [path.at(update) for update in (1, 2, 3, 4)] == [0.5, 0.5, 1.5, 1.5]


@pytest.mark.parametrize("text", ["", "update,reward/mean\n1,0.5\n", "update,preference/lambda\n"])
def test_a_file_without_lambda_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=r"model\.preference\.placebo is .*metrics\.csv of a run"):
        LambdaPath(str(file))


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.preference\.placebo.*fix the path"):
        LambdaPath(str(tmp_path / "no.csv"))

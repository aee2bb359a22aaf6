"""The names that the package exports."""

import subprocess
import sys

import pytest

import lambda_grpo_pl


def test_every_public_name_is_there() -> None:
    assert sorted(lambda_grpo_pl._HOMES) == sorted(lambda_grpo_pl.__all__)
    for name in lambda_grpo_pl.__all__:
        assert getattr(lambda_grpo_pl, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LambdaPPO"):
        lambda_grpo_pl.LambdaPPO  # noqa: B018


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, lambda_grpo_pl; print({'torch', 'lightning', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

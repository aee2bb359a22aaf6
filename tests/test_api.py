"""The names that the package exports."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_the_documented_script_trains(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a random policy in place of the built-in one, and fewer steps."""
    monkeypatch.chdir(tmp_path)
    document = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?)```", document, re.DOTALL)
    assert script is not None
    lines = [line for line in script[1].splitlines() if line]
    assert len(lines) <= 15
    code = script[1].replace("builtin:arithmetic-tiny", str(policy)).replace("max_steps=20", "max_steps=2")
    names: dict[str, Any] = {}
    exec(code.replace("max_tokens=64", "max_tokens=8"), names)
    assert names["trainer"].global_step == 2
    assert "reward/right" in names["trainer"].callback_metrics
    assert names["data"].train_source.prompt_template.name == "none"  # what the built-in model was made for

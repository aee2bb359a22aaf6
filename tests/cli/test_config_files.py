"""Configuration files that cannot be read are named with line and remedy, before anything slow is imported."""

from pathlib import Path

import pytest

from lambda_grpo_pl.cli.config_files import check_config_files
from lambda_grpo_pl.errors import UserError


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model:\n  policy: {path: a\n  x: 1\n", r"over.yaml:3 is not valid YAML.*check brackets"),
        ("model:\n\tpolicy: 1\n", r"over.yaml:2 is not valid YAML.*no tabs"),
        ("", r"over.yaml is empty"),
        ("# nothing\n", r"over.yaml is empty"),
        ("- a\n- b\n", r"over.yaml holds a list, not a mapping"),
        ("trainer: {max_steps: 3}\ntrainer: {max_steps: 4}\n", r"over.yaml:2 sets trainer again, after line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", r"over.yaml:4 sets a.b again, after line 2"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "over.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        check_config_files(["fit", "--config", str(path)])


def test_a_missing_file_suggests_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "lambda.yaml").write_text("trainer: {max_steps: 3}\n")
    check_config_files(["fit", f"--config={tmp_path / 'lambda.yaml'}"])
    with pytest.raises(UserError, match=r"no such file \(did you mean .*lambda.yaml\?\)"):
        check_config_files(["fit", "-c", str(tmp_path / "lamda.yaml")])


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "over.yaml"
    path.write_bytes("a: é\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        check_config_files(["--config", str(path)])

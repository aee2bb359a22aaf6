"""Configuration files that cannot be read are named with line and remedy, before anything slow is imported."""

from pathlib import Path

import pytest

from lambda_grpo_pl.cli.config_files import check_config_files, locate_key, point_at_settings
from lambda_grpo_pl.cli.presets import resolve_presets
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
    with pytest.raises(UserError, match=r"no such file: fix the path"):
        check_config_files(["fit", "-c", str(tmp_path / "nowhere.yaml")])


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "over.yaml"
    path.write_bytes("a: é\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        check_config_files(["--config", str(path)])


SETTINGS = """\
data:
  batch_size: 3
  val:
    - {split: test}
    - benchmark: gsm8k
      template: plane
"""


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("data.batch_size is 3, which 2 ranks", "data.batch_size (over.yaml:2) is 3, which 2 ranks"),
        ("data.val[1].template is 'plane'", "data.val[1].template (over.yaml:6) is 'plane'"),
        ("data.val[0].template is 'plane'", "data.val[0].template (over.yaml:4) is 'plane'"),
        ("reward.functions: the weight", "reward.functions (on the command line): the weight"),
        ("data.heldout.path is nowhere", "data.heldout.path (on the command line) is nowhere"),
        ("seed_everything is -5", "seed_everything (preset:base:3) is -5"),
        ("trainer.max_epochs is 2", "trainer.max_epochs is 2"),  # not set here
        ("No prompt: set data.batch_size to 2, or (data.batch_size: 2)", None),  # what to change, not what is wrong
    ],
)
def test_what_is_wrong_is_located(
    sentence: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("over.yaml").write_text(SETTINGS)
    options = ["--reward.functions", "[{name: math, weight: .nan}]", "--data.heldout", "{path: nowhere}"]
    words = resolve_presets(["fit", "--config", "preset:base", "--config", "over.yaml", *options])
    assert point_at_settings(sentence, words) == (expected or sentence)


def test_the_last_of_several_places_is_named(tmp_path: Path) -> None:
    path = tmp_path / "over.yaml"
    path.write_text(SETTINGS)
    assert locate_key("data.batch_size", ["--config", str(path), "--data.batch_size", "8"]) == "on the command line"
    assert locate_key("data.batch_size", ["--data.batch_size", "8", "--config", str(path)]) == f"{path}:2"

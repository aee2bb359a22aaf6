"""Short names of the configurations in the package, and copying them out."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lambda_grpo_pl.cli import presets
from lambda_grpo_pl.errors import UserError
from tests.conftest import ROOT


def test_a_short_name_stands_for_the_base_and_the_file() -> None:
    configs = ROOT / "configs"
    words = presets.resolve_presets(["fit", "--config", "preset:lambda", "--config=preset:gsm8k", "--data.seed", "3"])
    assert words == [
        "fit",
        f"--config={configs / 'base.yaml'}",
        "--config",
        str(configs / "preference/lambda.yaml"),
        f"--config={configs / 'data/gsm8k.yaml'}",
        "--data.seed",
        "3",
    ]


def test_a_command_names_the_presets_that_it_used() -> None:
    words = ["fit", "--config=preset:base", "--config", "preset:preference/lambda", "--model.policy.path=a=b", "x.yaml"]
    assert presets.name_presets(presets.resolve_presets(words)) == words


@pytest.mark.parametrize("first", ["preset:base", "my/base.yaml"])
def test_the_base_is_added_once(first: str) -> None:
    words = presets.resolve_presets(["fit", "--config", first, "--config", "preset:lambda"])
    assert sum("base.yaml" in word for word in words) == 1


def test_files_alone_stay_as_they_are() -> None:
    words = ["fit", "--config", "configs/preference/lambda.yaml", "--reward.functions", "[{name: preset:lambda}]"]
    assert presets.resolve_presets(words) == words


def test_every_configuration_has_a_short_name() -> None:
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    for path in files:
        assert presets.find_preset(str(path.with_suffix(""))) == (ROOT / "configs" / path).resolve()
    assert presets.find_preset("dapo").parent.name == "preference"  # a method wins over a recipe of its name
    assert {name for names in presets.list_presets().values() for name in names} == {path.stem for path in files}


def test_a_misspelled_name_is_corrected() -> None:
    with pytest.raises(UserError, match=r"did you mean preset:lambda\? .*model: .*tiny"):
        presets.find_preset("lamda")


def test_init_copies_the_configurations_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert presets.main([str(tmp_path / "mine")]) == 0
    assert "lambda-grpo fit --config" in capsys.readouterr().out
    copied = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*.yaml")}
    assert copied == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    with pytest.raises(UserError, match="not empty"):
        presets.main([str(tmp_path / "mine")])


@pytest.mark.slow
def test_the_wheel_holds_the_configurations_and_works_without_the_repository(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); sys.argv = ['lambda-grpo', 'init', 'mine']; "
    code += "from lambda_grpo_pl.cli import entry; raise SystemExit(entry.main())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    copied = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*.yaml")}
    assert copied == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}

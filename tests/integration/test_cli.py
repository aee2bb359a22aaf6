"""The console command: what it says without a subcommand, modules it imports, and what its exit status means."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lambda_grpo_pl.cli import entry
from lambda_grpo_pl.cli.plugins import import_plugins, spell_out_imports
from lambda_grpo_pl.errors import UserError
from tests.integration.runs import ROOT, arguments


def test_help_lists_every_command_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lambda-grpo", "--help"])
    assert entry.main() == 0
    listed = capsys.readouterr().out
    commands = ("fit", "validate", "test", "predict", "compare", "report", "init")
    assert all(f"\n  {command} " in listed for command in commands)


def test_help_imports_no_framework() -> None:
    code = (
        "import sys; import lambda_grpo_pl.cli.entry; print({'torch', 'lightning', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_error_inside_a_reward_keeps_its_traceback(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `ValueError` hours into a run is a defect in the reward, not in the configuration."""
    (tmp_path / "broken_reward.py").write_text("def score(completion, example):\n    return float('12 apples')\n")
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks=null", "--trainer.max_steps=2", "--reward.functions=[{name: broken_reward.score}]"]
    monkeypatch.setattr("sys.argv", ["lambda-grpo", *arguments("fit", policy, tmp_path / "run", *options)])
    with pytest.raises(Exception, match=r"12 apples|broken_reward") as caught:
        entry.main()
    assert not isinstance(caught.value, UserError)


def test_what_lightning_refuses_during_a_run_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise MisconfigurationException("Cannot use `LearningRateMonitor`\nwithout a logger.")

    monkeypatch.setattr("lambda_grpo_pl.cli.main.build", refuse)
    monkeypatch.setattr("sys.argv", ["lambda-grpo", "fit"])
    assert entry.main() == 2
    assert capsys.readouterr().err.startswith("lambda-grpo: Cannot use `LearningRateMonitor` without a logger.\n")


def test_plugins_come_from_the_command_line_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first_plugin", "second_plugin"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "over.yaml").write_text("plugins: [first_plugin]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["fit", "--config", str(tmp_path / "over.yaml"), "--import", "second_plugin", "--data.seed", "3"]
    assert import_plugins(spell_out_imports(words)) == ["first_plugin", "second_plugin"]


def test_a_plugin_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="no module 'nowhere_to_be_found'"):
        import_plugins(["fit", "--plugins=nowhere_to_be_found"])


def test_an_import_error_inside_a_plugin_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_plugin.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        import_plugins(["fit", "--plugins=half_plugin"])


PLUGIN = """
from lambda_grpo_pl.rewards import register

from lambda_grpo_pl.data.benchmarks import BENCHMARKS, Benchmark
from lambda_grpo_pl.data.templates import TEMPLATES, Template

TEMPLATES["mine"] = Template(name="mine", text="Q: {question} A:")
BENCHMARKS["tides"] = Benchmark(name="tides", path="tides.jsonl", template="mine", max_tokens=8)

@register("even_length")
def even_length(completion, example):
    return len(completion) % 2 == 0
"""


def test_what_a_plugin_registers_is_used_from_the_working_directory(policy: Path, tmp_path: Path) -> None:
    """As a user runs it: the console script, in a folder that is not the repository."""
    (tmp_path / "my_rewards.py").write_text(PLUGIN)
    (tmp_path / "tides.jsonl").write_text('{"question": "Height?", "answer": "4"}\n')
    options = ["--trainer.callbacks=null", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    options += ["--data.val=[{benchmark: tides}]", "--data.train.template=mine"]
    words = arguments("fit", policy, tmp_path / "run", *options, "--reward.functions=[{name: even_length}]")
    script = Path(sys.executable).with_name("lambda-grpo")
    done = subprocess.run([script, *words, "--import", "my_rewards"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run/evaluation/step-000001/scores.json").read_text())
    assert scores["benchmarks"]["tides"]["settings"]["template"] == "mine"


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 143), ("USR1", 75)])
def test_an_interrupted_run_saves_its_state_and_says_so(policy: Path, tmp_path: Path, signal: str, status: int) -> None:
    folder = tmp_path / "run"
    options = ["--trainer.callbacks=null", "--trainer.max_steps=100000", "--trainer.val_check_interval=100000"]
    options += ["--reward.functions=[{name: tests.integration.runs.digit_share}]", "--checkpoint.every=2"]
    script = Path(sys.executable).with_name("lambda-grpo")
    run = subprocess.Popen(
        [script, *arguments("fit", policy, folder, *options)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    last = folder / "checkpoints" / "last.ckpt"
    patience = time.monotonic() + 200
    while not last.exists() and time.monotonic() < patience and run.poll() is None:
        time.sleep(0.2)
    run.send_signal(getattr(__import__("signal"), f"SIG{signal}"))
    _, said = run.communicate(timeout=120)
    assert run.returncode == status, said
    assert "--resume" in said
    assert last.exists()
    assert (folder / "policy/model.safetensors").exists() == (folder / "run.png").exists() == (signal != "USR1")

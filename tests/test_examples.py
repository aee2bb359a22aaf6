"""The examples run as their first lines say, from a folder that is not the repository."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
FILES = [path for path in sorted(EXAMPLES.iterdir()) if path.is_file()]
COMMANDS = [path for path in FILES if "lambda-grpo fit" in path.read_text(encoding="utf-8")]
SMALL = """--trainer.accelerator=cpu --trainer.precision=32-true --trainer.logger=false --trainer.max_steps=2
--trainer.val_check_interval=1000 --trainer.num_sanity_val_steps=0 --trainer.enable_progress_bar=false
--rollout.sampler=transformers --rollout.sampling.num_samples=4 --rollout.sampling.max_tokens=8 --data.batch_size=4
--model.policy.gradient_checkpointing=false --table.every=0"""


def test_every_kind_of_example_is_there() -> None:
    named = {"my_rewards.py", "my_data.yaml", "my_family.py", "lora_small_gpu.yaml"}
    assert {path.name for path in COMMANDS} == named
    listed = re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert set(listed) == named | {"trl_trainer.py"}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_an_example_trains(policy: Path, tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder)
    command = re.search(r"lambda-grpo (fit .*)", path.read_text(encoding="utf-8"))
    assert command is not None
    words = [*shlex.split(command[1]), *SMALL.split(), f"--model.policy.path={policy}"]
    if "gsm8k" in command[1]:  # no hub here
        words += ["--data.train.path=builtin:arithmetic", "--data.train.answer_format=bare"]
    script = Path(sys.executable).with_name("lambda-grpo")
    done = subprocess.run([script, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/lambda-grpo/policy/model.safetensors").is_file()
    assert (folder / "runs/lambda-grpo/policy-adapter").is_dir() == ("lora" in path.name)


@pytest.mark.slow
def test_the_objective_trains_inside_trl(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import trl_trainer

    trainer = trl_trainer.main(str(policy), str(tmp_path), num_steps=3)
    path = [entry["preference/lambda"] for entry in trainer.state.log_history if "preference/lambda" in entry]
    assert len(path) == 3
    assert path[-1] != 0.0

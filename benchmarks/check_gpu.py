"""Everything that only a GPU can show, in one command of at most ten minutes, without a network: `make check-gpu`.

    python benchmarks/check_gpu.py [--accelerator cpu] [--keep FOLDER]

The checks run one after another, each in a process of its own with a time limit: the tests marked `gpu`; a fit of two
steps and an evaluation with each sampler that is installed; the bfloat16 self-test, with and without a planted fault;
the same fit twice and once interrupted and resumed, which must log the same; the second GPU where there are two; the
training phase's use of the GPU. The table says what passed, failed, or does not apply and why; results/check_gpu.json
keeps it. Without vLLM the checks that need it do not apply. `--accelerator cpu` rehearses the same commands where there
is no GPU and writes no JSON.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import table, write

from lambda_grpo_pl.sampling import installed_vllm

ROOT = Path(__file__).parents[1]
LAMBDA_GRPO = [str(Path(sys.executable).with_name("lambda-grpo"))]
SECONDS_PER_CHECK = 240
FIT = [
    *("fit", "--config", "configs/base.yaml", "--config", "configs/preference/lambda.yaml"),
    *("--trainer.num_sanity_val_steps", "0", "--data.batch_size", "8"),
    "--data.val=[{split: test, limit: 16}]",
]
COMPARED = ("reward/mean", "response/length", "policy/gradient_norm", "policy/entropy", "preference/lambda")


class DoesNotApplyError(Exception):
    """Why a check says nothing on this machine."""


class Machine(NamedTuple):
    """Where the checks run."""

    accelerator: str
    folder: Path

    @property
    def fit(self) -> list[str]:
        """Arguments that every fit shares."""
        precision = "bf16-mixed" if self.accelerator == "gpu" else "32-true"
        return [*FIT, "--trainer.accelerator", self.accelerator, "--trainer.precision", precision]

    def require_gpu(self, number: int = 1) -> None:
        """Stop a check that needs more GPUs than there are."""
        if self.accelerator != "gpu" or torch.cuda.device_count() < number:
            raise DoesNotApplyError(f"needs {number} GPU" + "s" * (number > 1))


def run(command: list[str]) -> str:
    """Return what a command printed. Raises `AssertionError` with its last lines if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_PER_CHECK)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


def fit(machine: Machine, name: str, *arguments: str, evaluate_every: int = 1000) -> list[dict[str, str]]:
    """Run a fit in a folder called `name`; return the training rows of its metrics.csv."""
    interval = ("--trainer.val_check_interval", str(evaluate_every))
    run([*LAMBDA_GRPO, *machine.fit, *interval, "--trainer.default_root_dir", str(machine.folder / name), *arguments])
    return [row for row in logged(machine, name) if row.get("reward/mean")]


def logged(machine: Machine, name: str) -> list[dict[str, str]]:
    """All rows of the metrics.csv of the fit in the folder called `name`."""
    paths = sorted((machine.folder / name).rglob("metrics.csv"))
    return [row for path in paths for row in csv.DictReader(path.open(encoding="utf-8"))]


def run_gpu_tests(machine: Machine) -> str:
    """The tests marked `gpu`."""
    machine.require_gpu()
    return run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]).splitlines()[-1]


def fit_with(sampler: str) -> Callable[[Machine], str]:
    """Two steps with a sampler, and an evaluation after them."""

    def check(machine: Machine) -> str:
        if sampler == "vllm" and installed_vllm() is None:
            raise DoesNotApplyError("vLLM is not installed")
        name, options = f"fit-{sampler}", ("--rollout.sampler", sampler, "--trainer.max_steps", "2")
        rows = fit(machine, name, *options, evaluate_every=2)
        assert len(rows) == 2, f"{len(rows)} steps were logged"
        accuracies = [float(row["val/average"]) for row in logged(machine, name) if row.get("val/average")]
        assert len(accuracies) == 1, f"{len(accuracies)} evaluations were logged"
        return f"gradient norm {float(rows[-1]['policy/gradient_norm']):.3g}, accuracy {accuracies[0]:.2f}"

    return check


def prove_the_self_test(machine: Machine) -> str:
    """In bfloat16 a sync passes, and one stale tensor is found."""
    if installed_vllm() is None:
        raise DoesNotApplyError("vLLM is not installed")
    return run([sys.executable, __file__, "--child", "self-test"]).splitlines()[-1]


def repeat_and_resume(machine: Machine) -> str:
    """The same seed gives the same steps, and so does a run that stopped after two steps and went on."""
    options = ("--rollout.sampler", "vllm" if installed_vllm() else "transformers", "--checkpoint.every", "1")
    first = fit(machine, "first", *options, "--trainer.max_steps", "4")
    second = fit(machine, "second", *options, "--trainer.max_steps", "4")
    fit(machine, "resumed", *options, "--trainer.max_steps", "2")
    resumed = fit(machine, "resumed", *options, "--trainer.max_steps", "4", "--resume")
    differences = {
        label: max(
            abs(float(a[name]) - float(b[name]))
            for a, b in zip(first, other, strict=True)
            for name in COMPARED
            if a.get(name)
        )
        for label, other in (("repeated", second), ("resumed", resumed))
    }
    text = ", ".join(f"{label} run differs by {value:.2g}" for label, value in differences.items())
    assert max(differences.values()) <= (1e-3 if machine.accelerator == "gpu" else 0.0), text
    return text


def use_the_second_gpu(machine: Machine) -> str:
    """`--trainer.devices [1]`: trainer and engine share it."""
    machine.require_gpu(2)
    sampler = "vllm" if installed_vllm() else "transformers"
    fit(machine, "second-gpu", "--trainer.devices", "[1]", "--rollout.sampler", sampler, "--trainer.max_steps", "2")
    return sampler


def measure_the_step(machine: Machine) -> str:
    """Model FLOP utilization of the training phase (`gpu_step.py` has the goal)."""
    machine.require_gpu()
    return run([sys.executable, "benchmarks/gpu_step.py"]).splitlines()[1]


CHECKS: dict[str, Callable[[Machine], str]] = {
    "tests marked gpu": run_gpu_tests,
    "fit, transformers sampler": fit_with("transformers"),
    "fit, vLLM": fit_with("vllm"),
    "bfloat16 self-test": prove_the_self_test,
    "same seed, and resume": repeat_and_resume,
    "--trainer.devices [1]": use_the_second_gpu,
    "training phase": measure_the_step,
}


def self_test() -> None:
    """Build a bfloat16 engine, sync it, and plant a stale tensor."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lambda_grpo_pl.sampling import SyncError, TransformersSampler, VllmSampler, VllmSettings, check_sync
    from lambda_grpo_pl.sampling import plan_probe as plan

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=8192, hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    config.num_attention_heads = config.num_key_value_heads = 4
    policy = Qwen2ForCausalLM(config).to(device).eval()
    engine = VllmSampler(config, [2], 0, VllmSettings(dtype="bfloat16", max_model_len=256, max_num_seqs=4))
    scorer = TransformersSampler([2], 0)
    scorer.sync(policy)
    probe = plan(config.vocab_size, torch.bfloat16, torch.float32, max_length=255)
    weights = dict(policy.state_dict())
    engine.receive(weights.items(), tuple(weights))
    gap = check_sync(engine, scorer.probe, *probe)
    stale = "model.layers.1.mlp.down_proj.weight"
    engine.receive({**weights, stale: 0.1 * torch.randn_like(weights[stale])}.items(), tuple(weights))
    try:
        check_sync(engine, scorer.probe, *probe)
    except SyncError:
        print(f"gap {gap:.2g} nats; a stale tensor is found")
        return
    raise SystemExit("A stale tensor was not found.")


def results(machine: Machine) -> Iterator[dict[str, Any]]:
    """Run every check in turn."""
    for name, check in CHECKS.items():
        start = time.perf_counter()
        try:
            outcome, detail = "passed", check(machine)
        except DoesNotApplyError as reason:
            outcome, detail = "does not apply", str(reason)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            outcome, detail = "FAILED", str(error)
        seconds = time.perf_counter() - start
        print(f"{name}: {outcome} ({seconds:.0f} s) {detail}", flush=True)
        yield {"check": name, "outcome": outcome, "seconds": seconds, "detail": detail}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu", help="cpu rehearses the commands.")
    parser.add_argument("--keep", type=Path, help="Folder for the runs; by default they are deleted.")
    parser.add_argument("--child", choices=["self-test"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        self_test()
        return
    if arguments.accelerator == "gpu" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. --accelerator cpu rehearses the same commands.")
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "offline"}
    with tempfile.TemporaryDirectory() as folder:
        rows = list(results(Machine(arguments.accelerator, arguments.keep or Path(folder))))
    table(["check", "outcome", "s"], [[row["check"], row["outcome"], f"{row['seconds']:.0f}"] for row in rows])
    if arguments.accelerator == "gpu":
        gpu = torch.cuda.get_device_name()
        write("check_gpu", {"gpu": gpu, "checks": rows}, ("torch", "lightning", "transformers", "vllm"))
    sys.exit(any(row["outcome"] == "FAILED" for row in rows))


if __name__ == "__main__":
    main()

"""The regimes of the language model: one task and one model size, told apart by what happens after an error.

    python -m benchmarks.lab.regimes             # one DAPO pilot of each regime, and what the gate says
    python -m benchmarks.lab.regimes ledger      # of one

Base models are made on first use by a warm-up of some seconds. The pilot's files are in runs/lab/regimes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.gate import Measured, measure, read_metrics

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Regime:
    """A base model, its questions, and the settings under which methods are compared."""

    name: str
    about: str
    """How length and correctness go together."""
    model: str
    """`model.policy.path`."""
    task: str
    """`data.train.path`."""
    max_tokens: int
    learning_rate: float
    """Of the pilot. Every method is tuned separately."""
    reward: str = ""
    """A graded reward, of which the gate's accuracies say nothing; empty: the base configuration's."""
    num_updates: int = 50
    is_null: bool = False
    """Length and correctness are independent, so that no method should differ."""

    def arguments(self, method: str, folder: Path, seed: int, learning_rate: float | None = None) -> list[str]:
        """Return the arguments of `lambda-grpo` for one run; `method` is a file of configs/preference."""
        sampling = f"{{temperature: 1.0, num_samples: 4, max_tokens: {self.max_tokens}}}"
        logger = f"[{{class_path: lambda_grpo_pl.callbacks.RunCSVLogger, init_args: {{save_dir: {folder}}}}}]"
        return [
            "fit",
            *("--config", str(ROOT / "configs/base.yaml")),
            *("--config", str(ROOT / f"configs/preference/{method}.yaml")),
            *("--config", str(ROOT / "configs/model/ledger.yaml")),
            *("--model.policy.path", self.model),
            *("--data.train.path", self.task),
            *("--data.val", f"{{path: {self.task}, split: test, limit: 256}}"),
            *("--rollout.sampling.max_tokens", str(self.max_tokens)),
            *("--evaluation.overrides", sampling),
            *("--model.optimizer.lr", str(learning_rate or self.learning_rate)),
            *("--trainer.max_steps", str(self.num_updates)),
            *("--trainer.val_check_interval", str(self.num_updates)),
            *("--trainer.logger", logger),
            *("--trainer.callbacks", "[]"),
            *("--table.every", "0"),
            *("--seed_everything", str(seed)),
            *("--trainer.default_root_dir", str(folder)),
            *(("--reward.functions", f"[{{name: {self.reward}}}]") if self.reward else ()),
        ]


REGIMES = {
    regime.name: regime
    for regime in (
        Regime(
            name="ledger",
            about="wrong answers are long: a useless tail of the same digits",
            model="builtin:ledger-tiny",
            task="builtin:ledger",
            max_tokens=96,
            learning_rate=2.2e-5,
        ),
        Regime(
            name="switch",
            about="wrong answers are long: a tail that would be valid in another question",
            model="builtin:switch-tiny",
            task="builtin:two-ledgers",
            max_tokens=96,
            learning_rate=2.2e-5,
        ),
        Regime(
            name="fail-fast",
            about="wrong answers are short: the first error ends the answer",
            model="builtin:fail-fast-tiny",
            task="builtin:long-ledger",
            max_tokens=32,
            learning_rate=2.2e-5,
        ),
        Regime(
            name="ramble",
            about="wrong answers are long: filler in letters that nothing else uses",
            model="builtin:ramble-tiny",
            task="builtin:ledger",
            max_tokens=96,
            learning_rate=2.2e-5,
        ),
        Regime(
            name="padding",
            about="lengths vary and mean nothing: dots before right and wrong answers",
            model="builtin:padding-tiny",
            task="builtin:ledger",
            max_tokens=96,
            learning_rate=6.5e-5,
            is_null=True,
        ),
        Regime(
            name="equal-lengths",
            about="all answers are equally long",
            model="builtin:equal-lengths-tiny",
            task="builtin:ledger",
            max_tokens=16,
            learning_rate=2.2e-5,
            is_null=True,
        ),
        Regime(
            name="translation",
            about="translation-like, scored by chrF: bad texts go on after the end",
            model="builtin:translation-tiny",
            task="builtin:translation",
            max_tokens=64,
            learning_rate=6.5e-5,
            reward="chrf",
        ),
        Regime(
            name="summary",
            about="summarization-like, scored by ROUGE-L: bad texts go on after the end",
            model="builtin:summary-tiny",
            task="builtin:summary",
            max_tokens=64,
            learning_rate=6.5e-5,
            reward="rouge",
        ),
    )
}


def run_pilot(regime: Regime, folder: Path, method: str = "dapo", seed: int = 0) -> tuple[Measured, float]:
    """Train in a process with one thread; return what the gate reads, and the seconds of the whole run."""
    command = [sys.executable, "-m", "lambda_grpo_pl.cli.entry", *regime.arguments(method, folder, seed)]
    shutil.rmtree(folder, ignore_errors=True)  # an earlier pilot, under other settings
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return measure(read_metrics(folder / "csv/metrics.csv")), time.perf_counter() - start


def judge(regime: Regime, found: Measured) -> list[str]:
    """Say what the gate has against a regime."""
    return [] if regime.reward else found.judge(regime.is_null)


HEADER = (
    f"{'regime':14} {'accuracy':>11} {'signal':>6} {'CV':>5} {'right/wrong':>13} "
    f"{'cut':>11} {'corr':>13} {'s':>5}  gate"
)


def describe(regime: Regime, found: Measured, seconds: float) -> str:
    """Return one line of the table: each pair is at the start and at the end, except the two lengths."""
    faults = judge(regime, found)
    passed = "not gated" if regime.reward else "passes as a null" if regime.is_null else "passes"
    return (
        f"{regime.name:14} {found.start_accuracy:.3f} {found.end_accuracy:.3f} {found.signal:6.2f} {found.cv:5.2f} "
        f"{found.right_length:6.1f} {found.wrong_length:6.1f} {found.truncated:5.3f} {found.end_truncated:5.3f} "
        f"{found.start_correlation:+6.2f} {found.end_correlation:+6.2f} {seconds:5.0f}  {'; '.join(faults) or passed}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; exit with 1 if a regime does not pass."""
    parser = argparse.ArgumentParser(description="Pilot the regimes and apply the gate.")
    parser.add_argument("regimes", nargs="*", metavar="REGIME", help=f"default: all of {', '.join(REGIMES)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/lab/regimes"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    unknown = set(options.regimes) - set(REGIMES)
    if unknown:
        parser.error(f"unknown regime {', '.join(sorted(unknown))}: choose from {', '.join(REGIMES)}")
    print(HEADER)
    failed = False
    for name in options.regimes or REGIMES:
        regime = REGIMES[name]
        found, seconds = run_pilot(regime, options.folder.resolve() / name, seed=options.seed)
        print(describe(regime, found, seconds), flush=True)
        failed = failed or bool(judge(regime, found))
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

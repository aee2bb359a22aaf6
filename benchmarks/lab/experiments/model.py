"""The same questions with a language model: the tiny character model on the built-in regimes, by `lambda-grpo fit`.

`quick` is a first look: 3 seeds, 4 methods, 2 regimes, the regimes' own learning rate for all. `model` tunes every
method on other seeds first. A run that was interrupted starts again; a finished one is kept.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import MODEL
from benchmarks.lab.gate import measure, read_metrics
from benchmarks.lab.regimes import REGIMES
from benchmarks.lab.report.figures import bands, draw, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.statistics import find_contrasts
from benchmarks.lab.store import describe_origin, write_json
from lambda_grpo_pl.evaluation.runs import read_run

METHODS = ("dapo", "grpo", "lambda", "correlation", "balanced_correlation")
QUICK_METHODS = ("dapo", "grpo", "lambda", "correlation")
QUICK_REGIMES = ("ledger", "fail-fast")
GRID = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Learning rates that `model` tries, times the regime's."""
TUNING_SEEDS = (1001, 1002)
DONE = "done.json"
WARM = multiprocessing.get_context("forkserver")
"""Makes a process for each run from one that has imported everything, which takes ten seconds, and done no more."""
WARM.set_forkserver_preload(["__main__", "lambda_grpo_pl.cli.main"])


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run."""

    regime: str
    method: str
    seed: int
    factor: float = 1.0
    """Times the regime's learning rate."""

    def find_folder(self, runs: Path) -> Path:
        """Return where the run is."""
        return runs / self.regime / self.method / f"x{self.factor:g}" / f"seed{self.seed}"


def run_missing(wanted: Sequence[Run], runs: Path, jobs: int) -> None:
    """Train what is not finished, `jobs` processes at a time, one thread each."""
    waiting = [each for each in wanted if not (each.find_folder(runs) / DONE).exists()]
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        for number, line in enumerate(pool.map(lambda each: train(each, runs), waiting), 1):
            print(f"[{number}/{len(waiting)}, {time.monotonic() - started:.0f} s] {line}", flush=True)


def train(run: Run, runs: Path) -> str:
    """Train one run in a process, write what says that it is finished, and return a sentence about it."""
    folder, regime, started = run.find_folder(runs), REGIMES[run.regime], time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = regime.arguments(run.method, folder.resolve(), run.seed, regime.learning_rate * run.factor)
    process = WARM.Process(target=_fit, args=(arguments, folder / "log.txt"))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The run ended with status {process.exitcode}: {folder / 'log.txt'} says why.")
    seconds, accuracy = time.perf_counter() - started, float(read_scores(run, runs).mean())
    write_json(folder / DONE, {"seconds": round(seconds, 1), "accuracy": accuracy} | describe_origin())
    return f"{run.regime}, {run.method}, seed {run.seed}, rate × {run.factor:g}: {accuracy:.3f}, {seconds:.0f} s"


def _fit(arguments: Sequence[str], log: Path) -> None:
    """Be `lambda-grpo` with one thread, and write what it prints to `log`."""
    import torch

    from lambda_grpo_pl.cli.entry import main

    torch.set_num_threads(1)
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = ["lambda-grpo", *arguments]
    raise SystemExit(main())


def read_scores(run: Run, runs: Path) -> NDArray[np.float64]:
    """Return the last evaluation's score of every question, [questions], in the questions' order."""
    (values,) = read_run(run.find_folder(runs)).values.values()
    return np.array([values[question][0] for question in sorted(values)])


def run_quick(runs: Path, num_seeds: int, jobs: int) -> None:
    """Train 4 methods in 2 regimes."""
    run_missing(list_runs(QUICK_REGIMES, dict.fromkeys(QUICK_METHODS, 1.0), range(num_seeds)), runs, jobs)


def list_runs(regimes: Sequence[str], factors: dict[str, float], seeds: Sequence[int]) -> list[Run]:
    """Return seed by seed, so that an interrupted experiment has whole pairs."""
    return [
        Run(regime=regime, method=method, seed=seed, factor=factor)
        for seed in seeds
        for regime in regimes
        for method, factor in factors.items()
    ]


def tune(regime: str, method: str, runs: Path, jobs: int) -> float:
    """Return the factor of the grid with the best mean accuracy on the tuning seeds; it grows until that is inside."""
    factors = list(GRID)
    for _ in range(3):
        wanted = [
            Run(regime=regime, method=method, seed=seed, factor=each) for each in factors for seed in TUNING_SEEDS
        ]
        run_missing(wanted, runs, jobs)
        means = {each: np.mean([read_accuracy(run, runs) for run in wanted if run.factor == each]) for each in factors}
        best = max(factors, key=lambda each: means[each])
        if min(factors) < best < max(factors):
            break
        factors.append(best / 2 if best == min(factors) else best * 2)
    return best


def read_accuracy(run: Run, runs: Path) -> float:
    """Return a finished run's accuracy."""
    return float(json.loads((run.find_folder(runs) / DONE).read_text(encoding="utf-8"))["accuracy"])


def run_model(runs: Path, num_seeds: int, jobs: int, regimes: Sequence[str]) -> None:
    """Tune every method in each of the regimes, then train the reported seeds."""
    for regime in regimes:
        factors = {method: tune(regime, method, runs, jobs) for method in METHODS}
        write_json(runs / regime / "factors.json", factors)
        run_missing(list_runs([regime], factors, range(num_seeds)), runs, jobs)


def read_factors(runs: Path, regime: str) -> dict[str, float]:
    """Return the tuned factors, or 1 for all methods before tuning."""
    path = runs / regime / "factors.json"
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {method: found.get(method, 1.0) for method in METHODS}


def build_sections(runs: Path, num_seeds: int, pictures: Path, command: str) -> list[Section]:
    """Return this experiment's part of the report."""
    return [_show_regime(regime, runs, num_seeds, pictures, command) for regime in REGIMES if (runs / regime).exists()]


def _show_regime(regime: str, runs: Path, num_seeds: int, pictures: Path, command: str) -> Section:
    section = Section(f"Language model: {regime}")
    found: dict[str, list[Run]] = {}
    for run in list_runs([regime], read_factors(runs, regime), range(num_seeds)):
        if (run.find_folder(runs) / DONE).exists():
            found.setdefault(run.method, []).append(run)
    whole = {method: each for method, each in found.items() if len(each) == num_seeds}
    scores = {method: np.stack([read_scores(run, runs) for run in each]) for method, each in whole.items()}
    metrics = {
        method: [read_metrics(run.find_folder(runs) / "csv/metrics.csv") for run in each]
        for method, each in whole.items()
    }
    section.add_text(f"{REGIMES[regime].about}. {num_seeds} seeds, paired; intervals are over seeds and questions.")
    rows = []
    for method, table in scores.items():
        measured = [measure(each) for each in metrics[method]]
        rows.append([
            method, f"{whole[method][0].factor:g}", f"{100 * table.mean():.1f}",
            f"{np.mean([each.start_correlation for each in measured]):+.2f} → "
            f"{np.mean([each.end_correlation for each in measured]):+.2f}",
            f"{np.mean([each.cv for each in measured]):.2f}",
            f"{100 * np.mean([each.end_truncated for each in measured]):.0f} %",
        ])  # fmt: skip
    header = ["method", "rate ×", "accuracy (points)", "corr(ℓ, A)", "CV", "truncated at the end"]
    section.add_table(header, rows, f"Test accuracy in {regime}")
    findings = find_contrasts(regime, MODEL, scores)
    rows = [
        [
            f"{each.arm} − {each.baseline}",
            f"{100 * each.difference:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]", f"{each.p_holm:.3f}",
            f"{each.p_equivalence:.3f}", each.verdict, str(each.seeds_for_a_point or "> 100,000"),
        ]
        for each in findings
    ]  # fmt: skip
    header = ["contrast", "points", "p (Holm)", "p (equivalent)", "verdict", "seeds for one point"]
    section.add_table(header, rows, f"Declared contrasts in {regime}")
    _draw_accuracy(section, regime, metrics, pictures)
    section.add_command(command)
    return section


def _draw_accuracy(
    section: Section, regime: str, metrics: dict[str, list[list[dict[str, float]]]], pictures: Path
) -> None:  # fmt: skip
    figure, (axes,) = draw(7.0, 3.2)
    curves = {
        method: np.array([[row["reward/accuracy"] for row in rows if "reward/accuracy" in row] for rows in runs])
        for method, runs in metrics.items()
    }
    present = {method: curve for method, curve in curves.items() if curve.size}
    if present:
        length = min(curve.shape[1] for curve in present.values())
        bands(axes, list(range(1, length + 1)), {method: curve[:, :length] for method, curve in present.items()})
        axes.set(xlabel="update", ylabel="accuracy of training responses")
        axes.legend(fontsize=8)
        section.add_figure(save(figure, pictures, f"model_{regime}"), f"Training accuracy in {regime}.")

"""The same questions with a language model: the tiny character model on the built-in regimes, by `lambda-grpo fit`.

`quick` is a first look: 3 seeds, 4 methods, 2 regimes, the regimes' own learning rate for all. `model` tunes every
method on other seeds first, by what its responses earn over the whole run: at the end most rates have learned all there
is to learn, and the best of them would be chosen by luck. It then trains each at its own rate, and all at the rate that
most of them chose. A run that was interrupted starts again; a finished one is kept.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import MODEL, MODEL_ARMS, MODEL_OTHER_ARMS, MODEL_OTHERS, Contrast
from benchmarks.lab.experiments.model_methods import find_overlay, list_options
from benchmarks.lab.gate import read_metrics
from benchmarks.lab.regimes import REGIMES
from benchmarks.lab.statistics import describe_power, smooth
from benchmarks.lab.store import describe_origin, write_json
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.runs import read_run

QUICK_METHODS = ("dapo", "grpo", "lambda", "correlation")
QUICK_REGIMES = ("ledger", "fail-fast")
GRID = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Learning rates that `model` tries, times the regime's."""
OTHERS_GRID = (8.0, 16.0, 32.0, 64.0)
"""The same for the other methods, around what the first ones chose."""
MOST_EXTENSIONS = 4
TUNING_SEEDS = (1001, 1002, 1003)
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
    overlay, rate = find_overlay(run.method), regime.learning_rate * run.factor
    arguments = regime.arguments(overlay, folder.resolve(), run.seed, rate)
    arguments += list_options(run.method, regime.task, find_donor(run, runs))
    process = WARM.Process(target=_fit, args=(arguments, folder / "log.txt"))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The run ended with status {process.exitcode}: {folder / 'log.txt'} says why.")
    seconds, accuracy = time.perf_counter() - started, float(read_scores(run, runs).mean())
    curve = read_curve(run, runs)
    found = {"seconds": round(seconds, 1), "accuracy": accuracy, "over_the_run": float(curve.mean())}
    write_json(folder / DONE, found | describe_origin())
    return (
        f"{run.regime}, {run.method}, seed {run.seed}, rate × {run.factor:g}: {accuracy:.3f} at the end, "
        f"{curve.mean():.3f} over the run, {seconds:.0f} s"
    )


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


def read_curve(run: Run, runs: Path) -> NDArray[np.float64]:
    """Return the mean score of every update's responses, [updates]."""
    return find_curve(run.regime, read_rows(run, runs))


def read_rows(run: Run, runs: Path) -> list[dict[str, float]]:
    """Return what the run logged, update by update."""
    return read_metrics(run.find_folder(runs) / "csv/metrics.csv")


def find_curve(regime: str, rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Return each update's mean score, [updates]: accuracy, or the reward where it is graded."""
    name = "reward/mean" if REGIMES[regime].reward else "reward/accuracy"
    return np.array([row[name] for row in rows])


def run_quick(runs: Path, num_seeds: int, jobs: int) -> None:
    """Train 4 methods in 2 regimes."""
    run_missing(list_runs(QUICK_REGIMES, dict.fromkeys(QUICK_METHODS, 1.0), range(num_seeds)), runs, jobs)


def list_runs(regimes: Sequence[str], factors: Mapping[str, float], seeds: Sequence[int]) -> list[Run]:
    """Return seed by seed, so that an interrupted experiment has whole pairs."""
    return [
        Run(regime=regime, method=method, seed=seed, factor=factor)
        for seed in seeds
        for regime in regimes
        for method, factor in factors.items()
    ]


def find_donor(run: Run, runs: Path) -> Path:
    """Return the folder of the correlation rule's run with the seed beside this one's: a placebo has its λ."""
    beside = run.seed + 1 if run.seed in (0, TUNING_SEEDS[0]) else run.seed - 1
    factor = read_factors(runs, run.regime)["correlation"]
    return replace(run, method="correlation", seed=beside, factor=factor).find_folder(runs)


def tune(regime: str, method: str, runs: Path, jobs: int) -> float:
    """Return the factor with the best score over the run on the tuning seeds, averaged with those of its neighbors.

    The grid grows until the best is inside. A factor without a neighbor on each side is not chosen.
    """
    factors = list(GRID if method in MODEL_ARMS else OTHERS_GRID)
    for _ in range(MOST_EXTENSIONS):
        wanted = [
            Run(regime=regime, method=method, seed=seed, factor=each) for each in factors for seed in TUNING_SEEDS
        ]
        run_missing(wanted, runs, jobs)
        means = {
            each: float(np.mean([read_over_the_run(run, runs) for run in wanted if run.factor == each]))
            for each in factors
        }
        scores = smooth(means)
        best = max(scores, key=lambda each: scores[each])
        if min(scores) < best < max(scores):
            break
        factors = [factors[0] / 2, *factors] if best == min(scores) else [*factors, factors[-1] * 2]
    return best


def read_over_the_run(run: Run, runs: Path) -> float:
    """Return a finished run's mean score over its updates."""
    return float(json.loads((run.find_folder(runs) / DONE).read_text(encoding="utf-8"))["over_the_run"])


def run_model(runs: Path, num_seeds: int, jobs: int, regimes: Sequence[str]) -> None:
    """Tune every method in each of the regimes, say what the reported seeds can show, and train them."""
    _run_methods(MODEL_ARMS, MODEL, runs, num_seeds, jobs, regimes)


def run_others(runs: Path, num_seeds: int, jobs: int, regimes: Sequence[str]) -> None:
    """Do the same with the methods that `run_model`, which comes first, leaves out. Raises `UserError` before it."""
    for regime in regimes:
        if not set(MODEL_ARMS) <= set(_read_tuned(runs, regime)):
            raise UserError(f"The other methods are compared to those of `model`: run it first, --regimes {regime}.")
    _run_methods(MODEL_OTHER_ARMS, MODEL_OTHERS, runs, num_seeds, jobs, regimes)


def _run_methods(
    methods: Sequence[str], contrasts: Sequence[Contrast], runs: Path, num_seeds: int, jobs: int, regimes: Sequence[str]
) -> None:
    for regime in regimes:
        tuned = {method: tune(regime, method, runs, jobs) for method in methods}
        write_json(runs / regime / "factors.json", _read_tuned(runs, regime) | tuned)
        factors = read_factors(runs, regime)
        for sentence in describe_powers(regime, contrasts, factors, runs, num_seeds):
            print(sentence, flush=True)
        run_missing(list_runs([regime], tuned, range(num_seeds)), runs, jobs)
        alike = dict.fromkeys(methods, find_common_factor(factors))
        run_missing(list_runs([regime], alike, range(num_seeds)), runs, jobs)


def describe_powers(
    regime: str, contrasts: Sequence[Contrast], factors: Mapping[str, float], runs: Path, num_seeds: int
) -> list[str]:
    """Return for each contrast what the reported seeds can show, from the tuning seeds alone."""
    methods = dict.fromkeys(method for arm, baseline, _ in contrasts for method in (arm, baseline))
    tuned = {
        run.method: np.array([read_over_the_run(replace(run, seed=seed), runs) for seed in TUNING_SEEDS])
        for run in list_runs([regime], {method: factors[method] for method in methods}, TUNING_SEEDS[:1])
    }
    return [
        describe_power(f"{regime}, {arm} − {baseline}", float((tuned[arm] - tuned[baseline]).std(ddof=1)), num_seeds)
        for arm, baseline, _ in contrasts
    ]


def read_factors(runs: Path, regime: str) -> dict[str, float]:
    """Return the tuned factors, or 1 for all methods before tuning."""
    found = _read_tuned(runs, regime)
    return {method: found.get(method, 1.0) for method in (*MODEL_ARMS, *MODEL_OTHER_ARMS)}


def find_common_factor(factors: Mapping[str, float]) -> float:
    """Return the factor that most of `MODEL_ARMS` were tuned to, the smallest of several.

    Neighbors of a grid differ by a factor of two, and three seeds choose between them by chance now and then. Then two
    methods differ by their learning rates, even if they are the same method. At one rate they cannot.
    """
    counts = Counter(factors[method] for method in MODEL_ARMS)
    return min(counts, key=lambda factor: (-counts[factor], factor))


def _read_tuned(runs: Path, regime: str) -> dict[str, float]:
    path = runs / regime / "factors.json"
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found

"""Does the lab find what is there and nothing else? Two identical methods, and an effect of known size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import ALPHA, Contrast
from benchmarks.lab.report.page import Section
from benchmarks.lab.simulator.arms import find_arm
from benchmarks.lab.simulator.machine import find_machine
from benchmarks.lab.simulator.train import Schedule, train
from benchmarks.lab.statistics import find_contrasts, smallest_effect
from benchmarks.lab.store import describe_origin, write_json
from lambda_grpo_pl.evaluation.intervals import wilson_interval
from lambda_grpo_pl.evaluation.seeds import power_over_seeds

NUM_EXPERIMENTS, SEEDS_EACH = 200, 10
NUM_RUNS = 800
"""The pool from which each experiment draws both arms, without replacement."""
SCHEDULE = Schedule(num_updates=40, num_prompts=16, num_blocks=2, test_prompts=64)
REGIME, RATE = "failfast", 640.0
CHUNK = 200
FIRST_SEED = 3_000_000
CONTRAST = Contrast("dapo_again", "dapo", "Are two identical methods found different?")


def run(folder: Path, num_experiments: int = NUM_EXPERIMENTS) -> dict[str, Any]:
    """Run all simulated experiments and write their summary."""
    pool, random = _train_pool(NUM_RUNS), np.random.default_rng(0)
    draws = [random.choice(pool, 2 * SEEDS_EACH, replace=False) for _ in range(num_experiments)]
    first, second = np.stack(draws)[:, :SEEDS_EACH], np.stack(draws)[:, SEEDS_EACH:]
    sd = float((second - first).std(ddof=1))
    effect = smallest_effect(sd, SEEDS_EACH)
    summary = {
        "num_experiments": num_experiments, "seeds_each": SEEDS_EACH, "sd": sd, "effect": effect,
        "printed_power": power_over_seeds(effect, sd, SEEDS_EACH),
        "found_without_effect": list(_count_found(first, second)),
        "found_with_effect": list(_count_found(first, second + effect)),
    }  # fmt: skip
    write_json(folder / "summary.json", summary | {"origin": describe_origin()})
    return summary


def _train_pool(count: int) -> NDArray[np.float64]:
    """Return the final accuracies of `count` short runs of DAPO, which differ in their seeds alone."""
    machine, arm, parts = find_machine(REGIME), find_arm("dapo"), []
    for start in range(0, count, CHUNK):
        seeds = FIRST_SEED + np.arange(start, min(start + CHUNK, count))
        parts.append(train(machine, arm, seeds, np.full(len(seeds), RATE), SCHEDULE).test["accuracy"])
    return np.concatenate(parts)


def _count_found(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the share of the experiments that find a difference, with its 95 % interval."""
    tests = [
        find_contrasts(REGIME, [CONTRAST], {"dapo": a, "dapo_again": b})[0] for a, b in zip(first, second, strict=True)
    ]
    return tuple(wilson_interval(sum(test.p_holm < ALPHA for test in tests), len(tests)))  # type: ignore[return-value]


def read(folder: Path) -> dict[str, Any]:
    """Return the summary that `run` wrote."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def build_section(summary: dict[str, Any]) -> Section:
    """Return this experiment's part of the report."""
    section = Section("Controls")
    null, planted = summary["found_without_effect"], summary["found_with_effect"]
    section.add_text(
        f"{summary['num_experiments']} simulated experiments of {summary['seeds_each']} paired seeds. Two identical "
        f"methods are found different in {100 * null[0]:.1f} % of them [{100 * null[1]:.1f}, {100 * null[2]:.1f}]. A "
        f"planted effect of {100 * summary['effect']:.1f} points, for which a power of {summary['printed_power']:.2f} "
        f"is printed, is found in {100 * planted[0]:.1f} % [{100 * planted[1]:.1f}, {100 * planted[2]:.1f}]."
    )
    section.add_command("python -m benchmarks.lab controls")
    return section

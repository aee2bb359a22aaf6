"""Run what an experiment lacks, and write its report: `python -m benchmarks.lab EXPERIMENT [--seeds N] [--jobs J]`.

Everything is in runs/lab/EXPERIMENT: one Parquet and one JSON file per cell, pictures, and report.html. A cell whose
files exist is not run again. `report` puts all experiments into one page and runs nothing; what is committed about
overhead is in it too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.lab.experiments import (
    confirm,
    controls,
    lens,
    lens_report,
    model,
    model_report,
    overhead,
    pareto,
    robustness,
    sensitivity,
    simulate,
    stability,
    trajectories,
)
from benchmarks.lab.export import export_results
from benchmarks.lab.regimes import REGIMES
from benchmarks.lab.report.page import Section, write_page
from benchmarks.lab.results import read_results
from benchmarks.lab.store import describe_origin, write_json
from lambda_grpo_pl.errors import UserError

SUMMARY = (
    "Tabular policies on a small state machine whose lengths are controlled, trained with exact policy gradients and "
    "the package's own objective. Every table names the command that makes it again."
)
NUM_SEEDS = {
    "simulate": 100, "confirm": 100, "sensitivity": 32, "robustness": 32, "pareto": 32, "lens": 32, "quick": 3,
    "model": 10,
}  # fmt: skip
"""Experiment → the seeds that it reports by default; the others have a fixed number, or read those of `simulate`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one experiment, or write the page of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "report"])
    defaults = ", ".join(f"{name} {count}" for name, count in NUM_SEEDS.items())
    parser.add_argument(
        "--seeds", type=int, help=f"reported seeds of EXPERIMENT alone; the defaults, also of `report`: {defaults}"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    built_on = "the --seeds of the simulate run that is built on"
    parser.add_argument("--simulated-seeds", type=int, default=NUM_SEEDS["simulate"], help=built_on)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), help="of `model`; default: all")
    parser.add_argument("--others", action="store_true", help="of `model`: after it, the methods that it leaves out")
    parser.add_argument("--export", action="store_true", help="also write benchmarks/results/lab, which is committed")
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"), help="folder of all results")
    arguments = parser.parse_args(argv)
    try:
        names = list(EXPERIMENTS) if arguments.experiment == "report" else [arguments.experiment]
        if arguments.experiment != "report":
            EXPERIMENTS[arguments.experiment][0](arguments)
        sections = [section for name in names for section in _find_sections(name, arguments)]
    except UserError as error:
        parser.error(str(error))
    folder = arguments.runs / arguments.experiment
    if arguments.export:
        export_results(arguments.runs, {name: _count_seeds(name, arguments) for name in NUM_SEEDS})
    print(f"→ {write_page(folder / 'report.html', 'The length-preference lab', SUMMARY, sections)}")
    return 0


def _find_sections(name: str, arguments: argparse.Namespace) -> list[Section]:
    """Return an experiment's sections; in the page of all, one that has not run has none."""
    needs = arguments.runs / ("simulate" if name in ("trajectories", "stability") else name)
    needs = overhead.RESULTS if name == "overhead" else needs
    if arguments.experiment == "report" and not needs.exists():
        return []
    return EXPERIMENTS[name][1](arguments)


def _count_seeds(name: str, arguments: argparse.Namespace) -> int:
    """Return how many seeds an experiment reports: `--seeds` says it only of the one that the command line names."""
    if arguments.seeds and name == arguments.experiment:
        return int(arguments.seeds)
    return int(arguments.simulated_seeds) if name == "simulate" else NUM_SEEDS[name]


def _run_simulate(arguments: argparse.Namespace) -> None:
    folder, num_seeds = arguments.runs / "simulate", _count_seeds("simulate", arguments)
    simulate.run(folder, num_seeds, arguments.jobs)
    results = read_results(folder / "cells", simulate.list_cells(num_seeds))
    simulate.print_power(results, num_seeds)
    write_json(folder / "summary.json", simulate.summarize(results, num_seeds) | {"origin": describe_origin()})


def _run_controls(arguments: argparse.Namespace) -> None:
    controls.run(arguments.runs / "controls")


def _run_nothing(arguments: argparse.Namespace) -> None:
    """Trajectories and stability read what simulate left, and overhead what is committed."""


def _show_simulate(arguments: argparse.Namespace) -> list[Section]:
    num_seeds = _count_seeds("simulate", arguments)
    return simulate.build_sections(arguments.runs / "simulate", num_seeds, _pictures(arguments))


def _run_confirm(arguments: argparse.Namespace) -> None:
    confirm.run(arguments.runs / "confirm", _count_seeds("confirm", arguments), arguments.jobs)


def _show_confirm(arguments: argparse.Namespace) -> list[Section]:
    num_seeds = _count_seeds("confirm", arguments)
    return confirm.build_sections(arguments.runs / "confirm", num_seeds, _pictures(arguments))


def _show_controls(arguments: argparse.Namespace) -> list[Section]:
    return [controls.build_section(controls.read(arguments.runs / "controls"))]


def _show_trajectories(arguments: argparse.Namespace) -> list[Section]:
    num_seeds = _count_seeds("simulate", arguments)
    return trajectories.build_sections(arguments.runs / "simulate", num_seeds, _pictures(arguments))


def _show_stability(arguments: argparse.Namespace) -> list[Section]:
    num_seeds = _count_seeds("simulate", arguments)
    return stability.build_sections(arguments.runs / "simulate", num_seeds, _pictures(arguments))


def _pictures(arguments: argparse.Namespace) -> Path:
    return Path(arguments.runs / arguments.experiment / "pictures")


def _places(arguments: argparse.Namespace, name: str) -> tuple[Path, Path, int, int]:
    """Return folder, simulate's folder and seeds, and the experiment's seeds."""
    simulated_seeds, num_seeds = (_count_seeds(each, arguments) for each in ("simulate", name))
    return arguments.runs / name, arguments.runs / "simulate", simulated_seeds, num_seeds


def _run_model(arguments: argparse.Namespace) -> None:
    folder, num_seeds = arguments.runs / arguments.experiment, _count_seeds(arguments.experiment, arguments)
    if arguments.experiment == "quick":
        model.run_quick(folder, num_seeds, arguments.jobs)
    else:
        run = model.run_others if arguments.others else model.run_model
        run(folder, num_seeds, arguments.jobs, arguments.regimes)


def _show_model(name: str, arguments: argparse.Namespace) -> list[Section]:
    num_seeds = _count_seeds(name, arguments)
    command = f"python -m benchmarks.lab {name} --seeds {num_seeds}"
    return model_report.build_sections(arguments.runs / name, num_seeds, _pictures(arguments), command)


def _run_lens(arguments: argparse.Namespace) -> None:
    lens.run(arguments.runs / "lens", _count_seeds("lens", arguments), arguments.jobs)


def _show_lens(arguments: argparse.Namespace) -> list[Section]:
    return lens_report.build_sections(arguments.runs / "lens", _count_seeds("lens", arguments), _pictures(arguments))


Step = Callable[[argparse.Namespace], None]
Show = Callable[[argparse.Namespace], list[Section]]
EXPERIMENTS: dict[str, tuple[Step, Show]] = {
    "simulate": (_run_simulate, _show_simulate),
    "confirm": (_run_confirm, _show_confirm),
    "controls": (_run_controls, _show_controls),
    "trajectories": (_run_nothing, _show_trajectories),
    "stability": (_run_nothing, _show_stability),
    "sensitivity": (
        lambda arguments: sensitivity.run(*_places(arguments, "sensitivity"), arguments.jobs),
        lambda arguments: sensitivity.build_sections(*_places(arguments, "sensitivity")),
    ),
    "robustness": (
        lambda arguments: robustness.run(*_places(arguments, "robustness"), arguments.jobs),
        lambda arguments: robustness.build_sections(*_places(arguments, "robustness")),
    ),
    "pareto": (
        lambda arguments: pareto.run(*_places(arguments, "pareto"), arguments.jobs),
        lambda arguments: pareto.build_sections(*_places(arguments, "pareto"), _pictures(arguments)),
    ),
    "lens": (_run_lens, _show_lens),
    "quick": (_run_model, lambda arguments: _show_model("quick", arguments)),
    "model": (_run_model, lambda arguments: _show_model("model", arguments)),
    "overhead": (_run_nothing, lambda arguments: overhead.build_sections()),
}
"""Experiment → what runs it, and what shows it."""


if __name__ == "__main__":
    raise SystemExit(main())

"""Methods × benchmarks with intervals, and which differences hold: `lambda-grpo compare RUN_A RUN_B …`.

Every method is compared with a baseline on the questions that both answered. Runs of one method that differ in their
seed are grouped, and both questions and seeds are then resampled. The p-values of all differences of a report are
adjusted together (Holm), so that one lucky cell among many does not count as a finding. A table of model sizes ×
methods × benchmarks from a folder of runs is

    lambda-grpo compare --layout paper runs/*
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lambda_grpo_pl.data.benchmarks import in_registry_order
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.compare_report import (
    AVERAGE,
    METHOD_NAMES,
    Difference,
    Report,
    as_json,
    as_markdown,
)
from lambda_grpo_pl.evaluation.differences import Comparison, compare_averages, equivalence_p, holm
from lambda_grpo_pl.evaluation.intervals import Interval, average_interval
from lambda_grpo_pl.evaluation.runs import MethodRuns, describe_difference, read_methods

Layout = Literal["methods", "paper"]


def compare(
    runs: Sequence[str | Path],
    layout: Layout = "methods",
    baseline: str | None = None,
    benchmarks: Sequence[str] | None = None,
    confidence: float = 0.95,
    margin: float | None = None,
) -> Report:
    """Compare runs from their folders.

    Args:
        runs: Folders of runs, or of one evaluation of a run.
        layout: `methods` compares every method with one baseline, `paper` with the baseline on its own model.
        baseline: Label or method of the baseline; null: the first method, or method `grpo` in the layout `paper`.
        benchmarks: Columns, in this order; null: all that were evaluated.
        confidence: Confidence of the intervals; differences hold at α = 1 − this.
        margin: If set, every difference also gets the p-value of equivalence within ± this share.

    Raises:
        UserError: Fewer than two methods, unknown names, or a run without the model and method that `paper` needs.
    """
    if not 0 < confidence < 1:
        raise UserError(f"--confidence is {confidence:g}: it must be between 0 and 1.")
    if margin is not None and margin <= 0:
        raise UserError(f"--margin is {margin:g}: it must be above 0.")
    methods, notes = read_methods(runs)
    if len(methods) < 2:
        raise UserError(
            f"Nothing to compare: all that was given is {methods[0].label} ({len(methods[0].seeds)} run(s)). Give runs "
            "that differ in model or method, or two evaluations of one run, such as RUN/evaluation/step-000000 and RUN."
        )
    if layout == "paper":
        methods = sorted(methods, key=_place_in_paper)
    columns = _choose_columns(methods, benchmarks)
    shared = [name for name in columns if all(name in method.values for method in methods)]
    pairs = _pair_with_baselines(methods, layout, baseline)
    disjoint = _find_disjoint(pairs)
    if pairs and len(disjoint) == len(pairs):
        raise UserError(f"Nothing to compare: {' '.join(disjoint)} Evaluate the runs on the same sets.")
    return Report(
        methods=methods,
        benchmarks=columns,
        cells={method.label: _score_cells(method, columns, shared, confidence) for method in methods},
        differences=_test_differences(pairs, columns, shared, confidence, margin),
        notes=[*notes, *disjoint, *_find_limits(methods, columns, shared), *_describe_seeds(pairs)],
        alpha=1 - confidence,
        margin=margin,
    )


def _place_in_paper(method: MethodRuns) -> tuple[float, str, int]:
    """Return a sort key: model size in billions, model, then method in the paper's order."""
    if not method.info.model or not method.info.method:
        raise UserError(
            f"{method.label} does not name its model and method: add them to its run.json, or use --layout methods."
        )
    size = re.search(r"(\d+(?:\.\d+)?)[Bb]\b", method.info.model)
    known = list(METHOD_NAMES)
    place = known.index(method.info.method) if method.info.method in known else len(known)
    return float(size[1]) if size else math.inf, method.info.model, place


def _choose_columns(methods: Sequence[MethodRuns], chosen: Sequence[str] | None) -> list[str]:
    """Return the benchmarks of any method in the registry's order, or the chosen ones."""
    found = dict.fromkeys(name for method in methods for name in method.values)
    if chosen is None:
        return in_registry_order(found)
    missing = [name for name in chosen if name not in found]
    if missing:
        raise UserError(f"No run evaluated {', '.join(missing)}; available: {', '.join(found)}.")
    return list(chosen)


def _score_cells(
    method: MethodRuns, columns: Sequence[str], shared: Sequence[str], confidence: float
) -> dict[str, Interval]:
    """Return a method's scores by benchmark, and their average over the benchmarks that every method has."""
    tables = {name: method.table(name) for name in columns if name in method.values}
    cells = {name: average_interval([table], confidence) for name, table in tables.items()}
    if shared:
        cells[AVERAGE] = average_interval([tables[name] for name in shared], confidence)
    return cells


def _pair_with_baselines(
    methods: Sequence[MethodRuns], layout: Layout, baseline: str | None
) -> list[tuple[MethodRuns, MethodRuns]]:
    """Return (baseline, method) for every method that has a baseline other than itself."""
    wanted = baseline or ("grpo" if layout == "paper" else methods[0].label)
    if not any(wanted in (method.label, method.info.method) for method in methods):
        if baseline is not None:
            labels = ", ".join(method.label for method in methods)
            raise UserError(f"No run has the label or method {baseline!r}; available baselines: {labels}.")
        wanted = methods[0].info.method
    pairs = []
    for method in methods:
        peers = [other for other in methods if layout == "methods" or other.info.model == method.info.model]
        base = next((other for other in peers if wanted in (other.label, other.info.method)), None)
        if base is not None and base is not method:
            pairs.append((base, method))
    return pairs


def _test_differences(
    pairs: Sequence[tuple[MethodRuns, MethodRuns]],
    columns: Sequence[str],
    shared: Sequence[str],
    confidence: float,
    margin: float | None,
) -> list[Difference]:
    """Return every method against its baseline, on each benchmark both have and on average, adjusted together."""
    found: list[tuple[str, str, str, Comparison]] = []
    for base, method in pairs:
        paired = {name: base.pair(method, name) for name in columns if name in base.values and name in method.values}
        groups = {name: [name] for name in paired} | ({AVERAGE: list(shared)} if shared else {})
        for benchmark, members in groups.items():
            before, after = [paired[name][0] for name in members], [paired[name][1] for name in members]
            comparison = compare_averages(before, after, confidence, base.pairs_seeds(method))
            found.append((method.label, base.label, benchmark, comparison))
    adjusted = holm([comparison.p_value for *_, comparison in found])
    return [
        Difference(*each, p_holm=p, holds=p < 1 - confidence, p_equivalence=margin and equivalence_p(each[-1], margin))
        for each, p in zip(found, adjusted, strict=True)
    ]


def _find_limits(methods: Sequence[MethodRuns], columns: Sequence[str], shared: Sequence[str]) -> list[str]:
    """Return, as sentences, what makes the cells of a column incomparable."""
    notes = []
    if len(shared) < len(columns):
        left_out = ", ".join(name for name in columns if name not in shared)
        notes.append(f"The average leaves out {left_out}: not every method has it.")
    for name in columns:
        having = [method for method in methods if name in method.values]
        first = having[0]
        for method in having[1:]:
            differing = describe_difference(first.setups[name], method.setups[name])
            if differing:
                notes.append(
                    f"{name}: {first.label} and {method.label} differ in {differing}: not the same measurement."
                )
            num_shared = len(first.values[name].keys() & method.values[name].keys())
            most = max(len(first.values[name]), len(method.values[name]))
            if num_shared < most:
                notes.append(f"{name}: {first.label} and {method.label} share {num_shared} of {most} questions.")
    return notes


def _find_disjoint(pairs: Sequence[tuple[MethodRuns, MethodRuns]]) -> list[str]:
    """Return a sentence for each pair that was evaluated on different sets."""
    disjoint = [pair for pair in pairs if not pair[0].values.keys() & pair[1].values.keys()]
    named = [[f"{method.label} ({', '.join(method.values)})" for method in pair] for pair in disjoint]
    return [f"{base} and {method} have no set in common." for base, method in named]


def _describe_seeds(pairs: Sequence[tuple[MethodRuns, MethodRuns]]) -> list[str]:
    """Return, as sentences, which intervals include the variance between seeds."""
    compared = {method.label: method for pair in pairs for method in pair}
    single = [label for label, method in compared.items() if len(method.seeds) == 1 and method.info.method != "base"]
    notes = []
    if single:
        notes.append(
            f"One seed of {', '.join(single)}: intervals and p-values do not include its variance between training "
            "seeds."
        )
    for base, method in pairs:
        if max(len(base.seeds), len(method.seeds)) > 1 and not base.pairs_seeds(method):
            notes.append(f"{base.label} and {method.label} ran different seeds: they are paired by question only.")
    return notes


def main(argv: Sequence[str] | None = None) -> int:
    """Print a comparison as Markdown and write it as JSON; the command line of `lambda-grpo compare`."""
    parser = argparse.ArgumentParser(
        prog="lambda-grpo compare", description="Compare evaluated runs, question by question and seed by seed."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or of one evaluation of a run")
    parser.add_argument("--layout", choices=get_args(Layout), default="methods", help="paper: by model size and method")
    parser.add_argument("--baseline", help="label or method that the others are compared with")
    parser.add_argument("--benchmarks", nargs="+", help="columns; default: all that were evaluated")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals; differences hold at 1 - this")
    parser.add_argument("--margin", type=float, help="also test equivalence within +- this share, for example 0.01")
    parser.add_argument("--json", type=Path, help="file for the same numbers as JSON")
    arguments = parser.parse_args(argv)
    report = compare(
        arguments.runs,
        arguments.layout,
        arguments.baseline,
        arguments.benchmarks,
        arguments.confidence,
        arguments.margin,
    )
    print(as_markdown(report, by_model=arguments.layout == "paper"))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The tables of docs/evidence.md, written between their markers from the committed summaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.lab.experiments import lens_report
from benchmarks.lab.experiments.model_results import OUTCOMES
from benchmarks.lab.simulator.arms import find_arm

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence.md"
Show = Callable[[Mapping[str, Any]], str]
"""Writes a table of an experiment's summary."""
MARKS = {"better": "**", "worse": "**", "equivalent": "=", "undecided": ""}


def refresh(page: str, summary: Mapping[str, Any], experiment: str = "simulate") -> str:
    """Return the page with the tables of one experiment written anew; those of the others stay.

    They stand between `<!-- table: NAME -->` and `<!-- end -->`, with NAME from `TABLES`. Raises `KeyError` for a table
    of no experiment, which would never be written again.
    """
    own = TABLES[experiment]
    known = [name for tables in TABLES.values() for name in tables]

    def rewrite(match: re.Match[str]) -> str:
        name = match[1]
        if name not in known:
            raise KeyError(f"No experiment writes the table {name!r}: choose from {', '.join(known)}.")
        return f"<!-- table: {name} -->\n{own[name](summary)}\n<!-- end -->" if name in own else match[0]

    return re.sub(r"<!-- table: ([^>\n]+) -->.*?<!-- end -->", rewrite, page, flags=re.DOTALL)


def tabulate(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_regimes(summary: Mapping[str, Any]) -> str:
    """Return the regimes as DAPO found them."""
    rows = [
        [
            name, f"{m['accuracy_start']:.2f} → {m['accuracy_end']:.2f}",
            f"{m['length_right']:.0f} / {m['length_wrong']:.0f}", f"{m['cv']:.2f}",
            f"{100 * m['truncated']:.0f} → {100 * m['truncated_end']:.0f} %",
            f"{m['correlation_start']:+.2f} → {m['correlation_late']:+.2f}", "yes" if m["length_matters"] else "no",
        ]
        for name, m in ((name, each["measured"]) for name, each in summary["optimizers"]["sgd"].items())
    ]  # fmt: skip
    return tabulate(["regime", "accuracy", "right / wrong length", "CV", "truncated", "corr(ℓ, A)", "gate"], rows)


def show_accuracy(optimizer: str) -> Show:
    """Return what writes the table of accuracies."""

    def show(summary: Mapping[str, Any]) -> str:
        regimes = summary["optimizers"].get(optimizer, {})
        arms = list(dict.fromkeys(arm for each in regimes.values() for arm in each["arms"]))
        rows = []
        for arm in arms:
            found = [each["arms"].get(arm) for each in regimes.values()]
            cells = [f"{100 * row['accuracy']:.1f} ± {100 * row['half']:.1f}" if row else "" for row in found]
            rows.append([find_arm(arm).label, *cells])
        return tabulate(["method", *regimes], rows)

    return show


def show_contrasts(optimizer: str, budget: str) -> Show:
    """Return what writes the declared contrasts at one budget."""

    def show(summary: Mapping[str, Any]) -> str:
        regimes = summary["optimizers"].get(optimizer, {})
        found = [each["findings"][budget] for each in regimes.values()]
        return _tabulate_contrasts(regimes, found, lambda arm: find_arm(arm).label)

    return show


def _tabulate_contrasts(
    regimes: Iterable[str], findings: Sequence[Sequence[Mapping[str, Any]]], label: Callable[[str], str]
) -> str:
    """Return a row for each contrast and a column for each regime."""
    tables = [{(one["arm"], one["baseline"]): one for one in found} for found in findings]
    rows = [
        [" − ".join(map(label, pair)), *(_show_finding(table.get(pair)) for table in tables)]
        for pair in dict.fromkeys(pair for table in tables for pair in table)
    ]
    return tabulate(["contrast", *regimes], rows)


def _show_finding(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    text = f"{100 * found['difference']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    mark = MARKS[found["verdict"]]
    return f"{mark}{text}{mark}" if mark == "**" else f"{mark} {text}".strip()


def show_model_scores(summary: Mapping[str, Any]) -> str:
    """Return the language model's mean scores in each outcome, with the factor of the learning rate."""
    return _tabulate_methods(summary["regimes"])


def show_other_scores(summary: Mapping[str, Any]) -> str:
    """Return the same of the methods that only some regimes have, with those that they are compared to."""
    return _tabulate_methods(_find_others(summary))


def _find_others(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {regime: each["others"] for regime, each in summary["regimes"].items() if "others" in each}


def _tabulate_methods(regimes: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for each in regimes.values() for name in each["methods"]))
    rows = [[f"`{name}`", *(_show_method(each["methods"].get(name)) for each in regimes.values())] for name in names]
    return tabulate(["method", *regimes], rows)


def _show_method(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    scores = " / ".join(f"{100 * fmean(found[outcome]):.1f}" if outcome in found else "–" for outcome in OUTCOMES)
    return f"{scores} (× {found['factor']:g})"


def show_model_contrasts(outcome: str, others: bool = False, at_one_rate: bool = False) -> Show:
    """Return what writes the declared contrasts in one outcome: of the methods, or of the others."""

    def show(summary: Mapping[str, Any]) -> str:
        regimes = _find_others(summary) if others else summary["regimes"]
        found = [(each["at_one_rate"] if at_one_rate else each)["findings"][outcome] for each in regimes.values()]
        return _tabulate_contrasts(regimes, found, "`{}`".format)

    return show


def show_lens(summary: Mapping[str, Any]) -> str:
    """Return the lens against full runs, regime by regime."""
    return tabulate(*lens_report.list_regimes(summary))


def show_lens_scores(summary: Mapping[str, Any]) -> str:
    """Return every score in every window."""
    return tabulate(*lens_report.list_scores(summary["all"]["scores"]))


SIMULATED: dict[str, Show] = {
    "regimes": show_regimes,
    "accuracy-sgd": show_accuracy("sgd"),
    "accuracy-adam": show_accuracy("adam"),
    "updates-sgd": show_contrasts("sgd", "updates"),
    "tokens-sgd": show_contrasts("sgd", "tokens"),
    "updates-adam": show_contrasts("adam", "updates"),
}
TABLES: dict[str, dict[str, Show]] = {
    "simulate": SIMULATED,
    "confirm": {f"confirm-{name}": table for name, table in SIMULATED.items()},
    "model": {
        "model-scores": show_model_scores,
        "model-end": show_model_contrasts("end"),
        "model-over-the-run": show_model_contrasts("over_the_run"),
        "model-equal-tokens": show_model_contrasts("equal_tokens"),
        "model-one-rate-over-the-run": show_model_contrasts("over_the_run", at_one_rate=True),
        "model-one-rate-equal-tokens": show_model_contrasts("equal_tokens", at_one_rate=True),
        "model-others": show_other_scores,
        "model-others-over-the-run": show_model_contrasts("over_the_run", others=True, at_one_rate=True),
        "model-others-equal-tokens": show_model_contrasts("equal_tokens", others=True, at_one_rate=True),
    },
    "lens": {"lens": show_lens, "lens-scores": show_lens_scores},
}
"""Experiment → name in the page → what writes the table."""

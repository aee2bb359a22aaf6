"""The lens against full runs, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.contrasts import LENS_SCORES, LENS_WINDOWS
from benchmarks.lab.experiments.lens import list_cells, read_full_runs
from benchmarks.lab.experiments.lens_summary import DECLARED_SCORE, DECLARED_WINDOW, RULES, summarize
from benchmarks.lab.report.figures import PALETTE, draw, save
from benchmarks.lab.report.page import Section
from benchmarks.lab.results import read_results
from benchmarks.lab.simulator.arms import find_arm

RULE_LABELS = {"dapo": "token mean", "grpo": "GRPO", "random": "any method", "correlation": "sign of corr(ℓ, A)"}


def build_sections(folder: Path, num_seeds: int, pictures: Path) -> list[Section]:
    """Return this experiment's part of the report."""
    section = Section("The lens against full runs")
    results = read_results(folder / "cells", list_cells(num_seeds))
    summary = summarize(results, read_full_runs())
    if summary["regimes"]:
        section.add_text(
            f"The lens looks along the token mean's runs ({num_seeds} seeds, {len(summary['updates'])} looks, T_i from "
            f"{summary['heldout_responses']:,} held-out responses each) and ranks the fixed methods by their gain. "
            "Does that order foretell the accuracy of each method's own tuned runs? Intervals resample seeds."
        )
        _show_regimes(section, summary)
        _show_scores(section, summary["all"]["scores"])
        _show_methods(section, summary)
        _show_sentences(section, summary)
        section.add_figure(_draw(summary["regimes"], pictures), FIGURE)
    section.add_command(f"python -m benchmarks.lab lens --seeds {num_seeds}")
    return [section]


FIGURE = (
    "Left: accuracy minus the token mean's against the lens's gain as a multiple of the token mean's, each method in "
    "each regime. Right: the regret of what each rule chooses."
)


def list_regimes(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the main table, the declared score and window, with a last row for all regimes."""
    header = [
        "regime", "Spearman", "Kendall", "pairs in order", "lens's choice (best)", "regret", "one run",
        *RULE_LABELS.values(),
    ]  # fmt: skip
    rows = []
    for name, each in summary["regimes"].items():
        found = each["scores"][DECLARED_SCORE][DECLARED_WINDOW]
        choice = f"{find_arm(found['choice']).label} ({find_arm(each['best']).label})"
        right = f"{found['right'][0]:g} of {each['clear_pairs']}"
        rows.append([name, *_show_measures(found, right, choice), *(_points(each["rules"][rule]) for rule in RULES)])
    together = summary["all"]
    found = together["scores"][DECLARED_SCORE][DECLARED_WINDOW]
    right = "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * value for value in found["right_share"]))
    rules = (_points(together["rules"][rule]) for rule in RULES)
    return header, [*rows, ["all", *_show_measures(found, right, ""), *rules]]


def _show_measures(found: dict[str, Any], right: str, choice: str) -> list[str]:
    regrets = (_points(found["regret"]), _points(found["single run"]))
    return [_ratio(found["spearman"]), _ratio(found["kendall"]), right, choice, *regrets]


def _show_regimes(section: Section, summary: dict[str, Any]) -> None:
    header, rows = list_regimes(summary)
    section.add_table(header, rows, f"The lens's {DECLARED_SCORE}, {DECLARED_WINDOW} of the run; regrets in points")


def list_scores(scores: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of every score in every window, over all regimes."""
    header = ["score", "looks", "Spearman", "Kendall", "pairs in order", "regret", "regret of one run"]
    rows = [
        [
            score, window, _ratio(found["spearman"]), _ratio(found["kendall"]),
            "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * value for value in found["right_share"])),
            _points(found["regret"]), _points(found["single run"]),
        ]
        for score, window, found in ((a, b, scores[a][b]) for a in LENS_SCORES for b in LENS_WINDOWS)
    ]  # fmt: skip
    return header, rows


def _show_scores(section: Section, scores: dict[str, Any]) -> None:
    header, rows = list_scores(scores)
    section.add_table(header, rows, "Mean over regimes; only the gain over the first third was declared to be tested")
    section.add_text(*(f"{name}: {what}." for name, what in LENS_SCORES.items()))


def _show_methods(section: Section, summary: dict[str, Any]) -> None:
    rows = []
    for arm in summary["arms"]:
        cells = [
            f"{_ratio(each['gain'][arm])}; {100 * each['accuracy'][arm]:.1f}" for each in summary["regimes"].values()
        ]
        rows.append([find_arm(arm).label, *cells])
    caption = "Gain as a multiple of the token mean's, first third; accuracy of the full runs in points"
    section.add_table(["method", *summary["regimes"]], rows, caption)


def _show_sentences(section: Section, summary: Mapping[str, Any]) -> None:
    header = ["regime", "runs that name one", "which is better", "points on average", "named"]
    parts = {**summary["regimes"], "all": summary["all"]}
    for compared, which in (("all", "all methods"), ("default", "the lens's default methods, added afterwards")):
        rows = [[name, *_show_sentence(each["sentence"][compared])] for name, each in parts.items()]
        section.add_table(header, rows, f"The sentence after a run: what would have gained more, of {which}")


def _show_sentence(found: Mapping[str, Any]) -> list[str]:
    names = ", ".join(f"{find_arm(arm).label} {count}" for arm, count in found["names"].items())
    points = "" if found["points"] is None else f"{100 * found['points']:+.1f}"
    return [f"{found['naming']} of {found['runs']}", f"{found['better']} of {found['naming']}", points, names]


def _ratio(estimate: Sequence[float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)


def _points(estimate: Sequence[float]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in estimate))


def _draw(regimes: dict[str, Any], pictures: Path) -> str:
    figure, (left, right) = draw(9.5, 4.0, 2)
    for number, (name, each) in enumerate(regimes.items()):
        gains = [value[0] for value in each["gain"].values()]
        above = [100 * (value - each["accuracy"]["dapo"]) for value in each["accuracy"].values()]
        left.plot(gains, above, "o", color=PALETTE[number % len(PALETTE)], label=name, markersize=4)
    left.axhline(0, color=PALETTE[8], linewidth=0.8)
    left.set(xlabel="gain / token mean's gain", ylabel="accuracy − token mean's, points")
    left.legend(fontsize=7, ncols=2)
    rules = {"lens": lambda each: each["scores"][DECLARED_SCORE][DECLARED_WINDOW]["regret"]} | {
        RULE_LABELS[rule]: (lambda each, rule=rule: each["rules"][rule]) for rule in ("dapo", "grpo", "correlation")
    }
    for number, (label, read) in enumerate(rules.items()):
        rows = [row + 0.18 * (1.5 - number) for row in range(len(regimes))]
        values = [[100 * value for value in read(each)] for each in regimes.values()]
        errors = [[max(v - low, 0) for v, low, _ in values], [max(high - v, 0) for v, _, high in values]]
        right.errorbar([v for v, _, _ in values], rows, xerr=errors, fmt="o", markersize=4, label=label)
    right.set_yticks(range(len(regimes)), list(regimes))
    right.invert_yaxis()
    right.set(xlabel="regret, points")
    right.legend(fontsize=7)
    return save(figure, pictures, "lens")

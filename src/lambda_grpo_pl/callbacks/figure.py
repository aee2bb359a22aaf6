"""One picture of a run: reward, accuracy, length, λ beside GRPO's, who holds the gradient, f against length, and, with
held-out prompts, what each preference would gain on them.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lambda_grpo_pl.callbacks.gains import Gains
from lambda_grpo_pl.callbacks.metric_names import GRPO_LAMBDA, LAMBDA, titles

Series = dict[str, list[float]]
"""Metric → one value per rollout."""

TERCILES = {f"preference/weight_{name}": f"{name} responses" for name in ("short", "middle", "long")}
ROLLOUT = "rollout"
SMOOTHING = 0.9
BLUE, ORANGE, GREEN = "#1f5fa8", "#d95f02", "#1b7837"


def draw_run(series: Series, curve: list[tuple[float, float]], path: Path, gains: Gains | None = None) -> None:
    """Write the picture as PNG.

    Args:
        series: Metric → one value per rollout.
        curve: (length over its group's mean, f) of the last update's responses.
        path: Where to write.
        gains: Method → gain on each held-out batch.
    """
    figure = make_figure(series, curve, gains)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def make_figure(series: Series, curve: list[tuple[float, float]], gains: Gains | None = None) -> Figure:
    """Return the picture that `draw_run` writes."""
    has_lambda = bool(series.get(GRPO_LAMBDA))
    drawn = {metric: title for metric, title in titles().items() if metric != LAMBDA or has_lambda}
    num_panels = len(drawn) + 2 + bool(gains)
    figure = Figure(figsize=(3 * num_panels, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, num_panels))
    if gains:
        _draw_gains(axes.pop(), gains)
    for axis, (metric, title) in zip(axes, drawn.items(), strict=False):
        if metric == LAMBDA:
            _draw_lines(axis, series, {LAMBDA: "λ", GRPO_LAMBDA: "λ equivalent to GRPO"}, "λ")
        else:
            _draw_smoothed(axis, series.get(metric, []), title)
    _draw_lines(axes[-2], series, TERCILES, "share of the gradient by length")
    axes[-2].axhline(1 / 3, color="grey", linewidth=0.8, linestyle=":")
    _draw_curve(axes[-1], curve)
    return figure


def _draw_smoothed(axis: Axes, values: list[float], title: str) -> None:
    rollouts = range(1, len(values) + 1)
    axis.plot(rollouts, values, color=BLUE, alpha=0.25, linewidth=1)
    axis.plot(rollouts, _smooth(values), color=BLUE, linewidth=1.8)
    _style(axis, title, ROLLOUT)


def _draw_lines(axis: Axes, series: Series, labels: dict[str, str], title: str) -> None:
    for (metric, label), color in zip(labels.items(), (BLUE, GREEN, ORANGE), strict=False):
        values = series.get(metric, [])
        axis.plot(range(1, len(values) + 1), values, color=color, linewidth=1.8, label=label)
    axis.legend(fontsize=7, frameon=False)
    _style(axis, title, ROLLOUT)


def _draw_curve(axis: Axes, curve: list[tuple[float, float]]) -> None:
    axis.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    if curve:
        axis.plot(*zip(*curve, strict=True), color=ORANGE, marker="o", markersize=3)
    _style(axis, "f in the last update", "length / mean length of its group")


def _draw_gains(axis: Axes, gains: Gains) -> None:
    """Mean over the held-out batches with a 95 % interval, a line for each method, the run's own weights on top."""
    means = [mean(values) for values in gains.values()]
    margins = [1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0 for values in gains.values()]
    axis.errorbar(means, list(gains), xerr=margins, fmt="o", color=BLUE, markersize=4, linewidth=1.4)
    axis.invert_yaxis()
    axis.axvline(0.0, color="grey", linewidth=0.8, linestyle=":")
    _style(axis, "gain on held-out prompts", "per unit of weight")


def _smooth(values: list[float]) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        smoothed.append(SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value if smoothed else value)
    return smoothed


def _style(axis: Axes, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.tick_params(labelsize=8)
    if xlabel == ROLLOUT:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.2)

"""One picture of a run: reward, accuracy, length, λ beside GRPO's, who holds the gradient, and f against length."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lambda_grpo_pl.callbacks.metric_names import titles

Series = dict[str, list[float]]
"""Metric → one value per rollout."""

LAMBDA, GRPO_LAMBDA = "preference/lambda", "preference/grpo_lambda"
TERCILES = {f"preference/weight_{name}": f"{name} responses" for name in ("short", "middle", "long")}
SMOOTHING = 0.9
BLUE, ORANGE, GREEN = "#1f5fa8", "#d95f02", "#1b7837"


def draw_run(series: Series, curve: list[tuple[float, float]], path: Path) -> None:
    """Write the picture as PNG.

    Args:
        series: Metric → one value per rollout.
        curve: (length over its group's mean, f) of the last update's responses.
        path: Where to write.
    """
    figure = make_figure(series, curve)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def make_figure(series: Series, curve: list[tuple[float, float]]) -> Figure:
    """Return the picture that `draw_run` writes."""
    drawn = titles()
    figure = Figure(figsize=(3 * (len(drawn) + 2), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(drawn) + 2)
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
    _style(axis, title, "rollout")


def _draw_lines(axis: Axes, series: Series, labels: dict[str, str], title: str) -> None:
    for (metric, label), color in zip(labels.items(), (BLUE, GREEN, ORANGE), strict=False):
        values = series.get(metric, [])
        axis.plot(range(1, len(values) + 1), values, color=color, linewidth=1.8, label=label)
    axis.legend(fontsize=7, frameon=False)
    _style(axis, title, "rollout")


def _draw_curve(axis: Axes, curve: list[tuple[float, float]]) -> None:
    axis.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    if curve:
        axis.plot(*zip(*curve, strict=True), color=ORANGE, marker="o", markersize=3)
    _style(axis, "f in the last update", "length / mean length of its group")


def _smooth(values: list[float]) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        smoothed.append(SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value if smoothed else value)
    return smoothed


def _style(axis: Axes, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.2)

"""One picture of a run: reward, accuracy, length, λ, and f against length."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Series = dict[str, list[float]]

PANELS = (
    ("reward/mean", "reward"),
    ("reward/accuracy", "accuracy while sampling"),
    ("response/length", "response length (tokens)"),
    ("preference/lambda", "λ"),
)
SMOOTHING = 0.9
BLUE, ORANGE = "#1f5fa8", "#d95f02"


def draw_run(series: Series, curve: list[tuple[float, float]], path: Path) -> None:
    """Write the picture as PNG.

    Args:
        series: Metric → one value an update.
        curve: (length over its group's mean, f) of the last update's responses.
        path: Where to write.
    """
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS) + 1)
    for axis, (metric, title) in zip(axes, PANELS, strict=False):
        _draw_series(axis, series.get(metric, []), title)
    _draw_curve(axes[-1], curve)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_series(axis: Axes, values: list[float], title: str) -> None:
    updates = range(1, len(values) + 1)
    noisy = title != "λ"
    axis.plot(updates, values, color=BLUE, alpha=0.25 if noisy else 1.0, linewidth=1 if noisy else 1.8)
    if noisy:
        axis.plot(updates, _smooth(values), color=BLUE, linewidth=1.8)
    _style(axis, title, "update")


def _draw_curve(axis: Axes, curve: list[tuple[float, float]]) -> None:
    axis.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    if curve:
        axis.plot(*zip(*curve, strict=True), color=ORANGE, marker="o", markersize=3)
    _style(axis, "f, last update (1 = all tokens alike)", "length / mean length of its group")


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

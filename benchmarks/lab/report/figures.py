"""Figures as inline SVG, whose text takes the page's color, and as PNG beside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#2f7fd6", "#e07b28", "#2fa36b", "#c9416b", "#8b63d6", "#8c8c3c", "#23a6b8", "#b0685c", "#7d7d7d", "#d2a512")
"""Readable on white and on a dark page alike."""
INK = "#010203"
"""Stands for the page's text color until the SVG is written."""

plt.rcParams.update(
    {
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.edgecolor": INK, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "axes.prop_cycle": plt.cycler(color=PALETTE), "legend.frameon": False,
    }
)  # fmt: skip


def draw(width: float = 8.0, height: float = 3.4, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its axes, side by side."""
    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write the figure as PNG and return it as SVG for a page.

    The file and the identifiers have `name` with a hyphen for all that is no letter, digit, underscore or hyphen.
    """
    name = re.sub(r"[^\w-]+", "-", name, flags=re.ASCII)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', lambda match: match[1] or "", svg, count=2)
    # Several pictures share one page, and an identifier may occur once in it.
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\g<1>{name}-\2", svg)
    return svg.replace(INK, "currentColor")


def bars_with_intervals(
    axes: Axes, names: Sequence[str], means: Sequence[float], halves: Sequence[float], label: str
) -> None:
    """Draw horizontal points with intervals, the first name on top."""
    rows = np.arange(len(names))[::-1]
    axes.errorbar(means, rows, xerr=halves, fmt="o", markersize=4, linewidth=1.4, label=label)
    axes.set_yticks(rows, names)


def bands(axes: Axes, x: Sequence[float], curves: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw each name's mean over seeds ([seeds, blocks]) and the range of the middle 80 % of the seeds."""
    for number, (name, values) in enumerate(curves.items()):
        color = PALETTE[number % len(PALETTE)]
        axes.plot(x, values.mean(0), color=color, label=name, linewidth=1.6)
        low, high = np.quantile(values, [0.1, 0.9], axis=0)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def heat(axes: Axes, values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], limit: float) -> Any:
    """Draw a matrix of differences, 0 in the middle of the colors, with its numbers in points."""
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for i, j in np.ndindex(*values.shape):
        if np.isfinite(values[i, j]):
            ink = "white" if abs(values[i, j]) > 0.6 * limit else "black"
            axes.text(j, i, f"{100 * values[i, j]:+.1f}", ha="center", va="center", fontsize=8, color=ink)
    return image

"""Curves over training steps as a picture: a few runs in one axis, and the distance between two of them below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attncc.report.plot import DPI, TEXT_COLOR

#: The smallest distance that is drawn.
FLOOR: Final = 1e-8
#: Told apart by lightness and by dashes, not by hue alone.
STYLES: Final[tuple[dict[str, Any], ...]] = (
    {"color": "#e0862e", "linewidth": 3.4, "alpha": 0.75},
    {"color": "#14405f", "linewidth": 1.3, "linestyle": (0, (4, 2))},
)


def save_curves(curves: Mapping[str, Sequence[float]], title: str, label: str, path: Path) -> Path:
    """Draw two curves over the same steps and, below, how far they are apart; write a PNG."""
    one, other = curves.values()
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for (name, values), style in zip(curves.items(), STYLES, strict=True):
        upper.plot(range(1, len(values) + 1), values, label=name, **style)
    upper.set_ylabel(label, fontsize=9, color=TEXT_COLOR)
    upper.legend(fontsize=9, frameon=False)
    gaps = [max(FLOOR, abs(a - b)) for a, b in zip(one, other, strict=True)]  # a logarithm has no 0
    lower.plot(range(1, len(gaps) + 1), gaps, color=TEXT_COLOR, linewidth=1)
    lower.axhline(1e-3, color="#b03030", linewidth=0.8, linestyle=":")
    lower.annotate("1e-3", (1, 1e-3), xytext=(2, 2), textcoords="offset points", fontsize=7, color="#b03030")
    lower.set_yscale("log")
    lower.set_ylim(FLOOR, max(1e-2, 2 * max(gaps)))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.set_ylabel("difference", fontsize=8, color=TEXT_COLOR)
    lower.set_xlabel("step", fontsize=9, color=TEXT_COLOR)
    for axis in (upper, lower):
        axis.tick_params(labelsize=8, colors=TEXT_COLOR)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12, fontweight="bold", color=TEXT_COLOR)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path

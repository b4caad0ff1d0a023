"""Pictures of masks and their tiles, as PNG or SVG.

Takes a `Picture` and draws it; decides nothing about the mask. Colours are told apart by people with any colour vision,
and in grey: they differ in lightness.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from attncc.errors import InputError
from attncc.report.picture import FULL, SKIP, Panel, Picture

SKIPPED_COLOR: Final = "#f1f1ee"
HIDDEN_COLOR: Final = "#f6c98a"
VISIBLE_COLOR: Final = "#3c8dbc"
FULL_COLOR: Final = "#14405f"
GRID_COLOR: Final = "#8a8a86"
TEXT_COLOR: Final = "#333333"
MAX_GRID: Final = 48
FORMATS: Final = (".png", ".svg")
WIDTH: Final = 4.8
DPI: Final = 160


def save(picture: Picture, path: str | Path) -> Path:
    """Write the picture to `path`, as its suffix says: .png or .svg. The same picture gives the same bytes."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw a picture as {path.name!r}", hint="the name must end in .png or .svg")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", hint="make it first, or name another")
    figure = draw(picture)
    # Without a date and with fixed ids, equal pictures are equal files.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "attncc"}):
        figure.savefig(path, dpi=DPI, metadata=metadata)
    return path


def draw(picture: Picture) -> Figure:
    """The picture as a matplotlib figure."""
    columns = min(4, len(picture.panels))
    rows = -(-len(picture.panels) // max(1, columns))
    height = (WIDTH - 0.8) * _aspect(picture) + (0.85 if len(picture.panels) > 1 else 0.7)  # titles and labels
    size = (WIDTH * columns, height * rows + (0.9 if columns == 1 else 0.7))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, picture.panels, strict=False):
        _draw_panel(axis, picture, panel)
    for axis in axes[len(picture.panels) :]:
        axis.axis("off")
    figure.suptitle(_title(picture), fontsize=13, color=TEXT_COLOR, fontweight="bold")
    _legend(figure, picture)
    return figure


def _aspect(picture: Picture) -> float:
    """Height by width; kept within what fits on a page."""
    canvas = picture.canvas
    return min(2.0, max(0.4, max(1, canvas.q_len) / max(1, canvas.kv_len)))


def _title(picture: Picture) -> str:
    canvas = picture.canvas
    return f"{picture.name}   {canvas.q_len:,} × {canvas.kv_len:,}"


def _draw_panel(axis: Any, picture: Picture, panel: Panel) -> None:
    canvas = picture.canvas
    axis.set_title(caption(picture, panel), fontsize=8.5, color=TEXT_COLOR)
    axis.set_xlabel("kv_idx", fontsize=9, color=TEXT_COLOR)
    axis.set_ylabel("q_idx", fontsize=9, color=TEXT_COLOR)
    axis.tick_params(labelsize=8, colors=TEXT_COLOR, length=3)
    _frame(axis)
    if 0 in (canvas.q_len, canvas.kv_len):
        axis.text(0.5, 0.5, "no pairs", ha="center", va="center", color=TEXT_COLOR, transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    extent = (0, canvas.kv_len, canvas.q_len, 0)
    axis.imshow(colors(picture, panel), extent=extent, interpolation="nearest", aspect="auto")
    axis.set_box_aspect(_aspect(picture))
    for positions, set_ticks in (
        (ticks(canvas.kv_len, canvas.box_kv), axis.set_xticks),
        (ticks(canvas.q_len, canvas.box_q), axis.set_yticks),
    ):
        set_ticks(positions, [f"{position:,}" for position in positions])
    _draw_grid(axis, picture)


def _frame(axis: Any) -> None:
    for spine in axis.spines.values():
        spine.set_color(GRID_COLOR)
        spine.set_linewidth(0.6)


def colors(picture: Picture, panel: Panel) -> NDArray[np.float32]:
    """The pixels of a panel. Shape [height, width, 3]."""
    canvas, (height, width) = picture.canvas, panel.shares.shape
    middle_q = (2 * np.arange(height) + 1) * canvas.q_len // (2 * height)
    middle_kv = (2 * np.arange(width) + 1) * canvas.kv_len // (2 * width)
    kinds = panel.classes[middle_q // canvas.box_q][:, middle_kv // canvas.box_kv]
    hidden, visible = np.array(to_rgb(HIDDEN_COLOR)), np.array(to_rgb(VISIBLE_COLOR))
    share = panel.shares[..., None]
    image = hidden * (1 - share) + visible * share
    image[kinds == SKIP] = to_rgb(SKIPPED_COLOR)
    image[kinds == FULL] = to_rgb(FULL_COLOR)
    return image.astype(np.float32)


def ticks(length: int, box: int) -> range:
    """About six positions to label, at borders of boxes where there are that many."""
    step = max(1, length // 6)
    if step > box // 2:
        boxes = -(-step // box)
        step = box << (boxes - 1).bit_length()  # a power of two of boxes, so that the labels are round
    return range(0, length + 1, step)


def _draw_grid(axis: Any, picture: Picture) -> None:
    """The borders of the tiles, where they are far enough apart to be seen."""
    canvas = picture.canvas
    style = {"colors": GRID_COLOR, "linewidth": 0.35, "alpha": 0.6}
    if (
        canvas.boxes_are_tiles
        and canvas.kv_len <= MAX_GRID * canvas.tile_kv
        and canvas.q_len <= MAX_GRID * canvas.tile_q
    ):
        axis.vlines(range(canvas.tile_kv, canvas.kv_len, canvas.tile_kv), 0, canvas.q_len, **style)
        axis.hlines(range(canvas.tile_q, canvas.q_len, canvas.tile_q), 0, canvas.kv_len, **style)


def caption(picture: Picture, panel: Panel) -> str:
    """One or two lines: which heads, and how much of the square is visited."""
    total = panel.classes.size
    visited = total - panel.count(SKIP)
    share = f" ({100 * visited / total:.1f} %)" if total else ""
    boxes = "tiles" if picture.canvas.boxes_are_tiles else "boxes"
    counts = f"{visited:,} of {total:,} {boxes} visited{share}, {panel.count(FULL):,} full"
    return f"{spell_heads(panel.heads)}\n{counts}" if len(picture.panels) > 1 else counts


def spell_heads(heads: tuple[int, ...]) -> str:
    """`head 3`, `heads 0-3, 6`: runs are joined."""
    runs: list[list[int]] = []
    for head in heads:
        if runs and head == runs[-1][-1] + 1:
            runs[-1][1:] = [head]
        else:
            runs.append([head])
    spelled = ", ".join("–".join(map(str, run)) for run in runs)
    return f"head {spelled}" if len(heads) == 1 else f"heads {spelled}"


def _legend(figure: Figure, picture: Picture) -> None:
    canvas = picture.canvas
    size = f"{canvas.box_q} × {canvas.box_kv}"
    entries = {
        "skipped tile": SKIPPED_COLOR,
        "hidden pair in a visited tile": HIDDEN_COLOR,
        "visible pair": VISIBLE_COLOR,
        "full tile: no mask computed": FULL_COLOR,
    }
    handles = [Patch(facecolor=c, edgecolor=GRID_COLOR, linewidth=0.5, label=name) for name, c in entries.items()]
    title = f"tiles of {size}" if canvas.boxes_are_tiles else f"boxes of {size}, each of several tiles"
    title += f"; {picture.left_out} more groups of heads are not drawn" if picture.left_out else ""
    columns = 2 if len(picture.panels) < 3 else 4
    style = {"fontsize": 8, "title_fontsize": 8, "frameon": False}
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title, **style)
    legend.get_title().set_color(TEXT_COLOR)
    for text in legend.get_texts():
        text.set_color(TEXT_COLOR)

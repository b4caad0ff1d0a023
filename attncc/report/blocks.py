"""Pictures of masks in a terminal: two pixels to a character in colour, shades of one character without."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from attncc.report.picture import FULL, SKIP, Panel, Picture
from attncc.report.plot import FULL_COLOR, HIDDEN_COLOR, SKIPPED_COLOR, VISIBLE_COLOR, caption, colors

#: Without colour: skipped, hidden in a visited tile, partly visible, visible in a partial tile, full.
SHADES: Final = "·░▒▓█"
KEY: Final = "· skipped   ░ hidden in a visited tile   ▓ visible   █ full tile"


def draw_blocks(picture: Picture, width: int = 64, color: bool = True) -> Text:
    """The picture as text, panel below panel, each at most `width` characters wide."""
    canvas = picture.canvas
    text = Text(f"{picture.name}   {canvas.q_len:,} x {canvas.kv_len:,}", no_wrap=True)
    text.stylize("bold")
    for panel in picture.panels:
        text.append(f"\n{caption(picture, panel)}\n")
        if panel.shares.size:
            text.append_text(_colored(picture, panel, width) if color else _shaded(picture, panel, width))
    text.append("\n")
    text.append_text(_color_key() if color else Text(KEY, style="dim"))
    if picture.left_out:
        text.append(f"\n{picture.left_out} more groups of heads are not drawn", style="dim")
    return text


def _color_key() -> Text:
    meanings = {
        SKIPPED_COLOR: "skipped",
        HIDDEN_COLOR: "hidden in a visited tile",
        VISIBLE_COLOR: "visible",
        FULL_COLOR: "full tile",
    }
    return Text.assemble(*(part for color, name in meanings.items() for part in (("█", color), (f" {name}   ", "dim"))))


def _grid(panel: Panel, width: int) -> tuple[int, int]:
    height, columns = panel.shares.shape
    wide = min(width, max(1, columns))
    return max(1, min(height, round(wide * height / columns))), wide


def _shrink(image: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The means over a grid of rows x columns."""
    height, width = image.shape[:2]
    by_row = np.add.reduceat(image, np.arange(rows) * height // rows, axis=0)
    sums = np.add.reduceat(by_row, np.arange(columns) * width // columns, axis=1)
    heights = np.diff(np.append(np.arange(rows) * height // rows, height))
    widths = np.diff(np.append(np.arange(columns) * width // columns, width))
    area = np.outer(heights, widths).reshape(rows, columns, *[1] * (image.ndim - 2))
    means: NDArray[np.float32] = sums / area
    return means


def _colored(picture: Picture, panel: Panel, width: int) -> Text:
    rows, columns = _grid(panel, width)
    image = (255 * _shrink(colors(picture, panel), rows, columns)).round().astype(int)
    text = Text(no_wrap=True)
    for top in range(0, rows, 2):
        for column in range(columns):
            upper = Color.from_rgb(*image[top, column])
            lower = Color.from_rgb(*image[top + 1, column]) if top + 1 < rows else None
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n" if top + 2 < rows else "")
    return text


def _shaded(picture: Picture, panel: Panel, width: int) -> Text:
    """A character is twice as high as wide: two of them to a pixel where there is room, else one to two pixels."""
    rows, columns = _grid(panel, width)
    repeat = 2 if 2 * columns <= width else 1
    rows = rows if repeat == 2 else (rows + 1) // 2
    canvas, lines = picture.canvas, []
    share = _shrink(panel.shares, rows, columns)
    for row in range(rows):
        box = panel.classes[(2 * row + 1) * canvas.q_len // (2 * rows) // canvas.box_q]
        kinds = [box[(2 * c + 1) * canvas.kv_len // (2 * columns) // canvas.box_kv] for c in range(columns)]
        lines.append("".join(repeat * _shade(kind, float(share[row, c])) for c, kind in enumerate(kinds)))
    return Text("\n".join(lines), no_wrap=True)


def _shade(kind: int, share: float) -> str:
    if kind == SKIP:
        return SHADES[0]
    if kind == FULL:
        return SHADES[4]
    return SHADES[1] if share < 0.05 else SHADES[2] if share < 0.5 else SHADES[3]

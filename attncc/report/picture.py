"""What a picture of a mask shows: boxes by class, and pairs only inside the boxes that the analysis leaves open.

A box is a tile, or a square of tiles where there are more tiles than anybody can see. `classify` says of each box
whether it is skipped, full or partial; `visible` evaluates the mask at chosen pairs. Both are given, so this room knows
neither tensors nor kernels, and a picture costs as much at a million positions as at a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Classes of a box, as `classify` returns them.
SKIP, PARTIAL, FULL = 0, 1, 2
MAX_BOXES: Final = 512
MAX_PANELS: Final = 8

Classes = NDArray[np.uint8]  # [rows, columns] of SKIP, PARTIAL, FULL
Shares = NDArray[np.float32]  # [height, width], 0 to 1
#: Classes of all boxes of the given height and width, for one head.
Classify = Callable[[int, int, int], Classes]
#: Which pairs are visible to one head: (head, q [n], kv [m]) -> bool [n, m].
Visible = Callable[[int, NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Canvas:
    """What is drawn at which scale: lengths, the size of a tile, the size of a box, all in positions."""

    q_len: int
    kv_len: int
    tile_q: int
    tile_kv: int
    box_q: int
    box_kv: int

    @property
    def boxes_are_tiles(self) -> bool:
        """Whether each tile is drawn by itself."""
        return (self.box_q, self.box_kv) == (self.tile_q, self.tile_kv)


@dataclass(frozen=True, slots=True)
class Panel:
    """The mask of heads that see alike: the class of each box, and how much of each pixel is visible."""

    heads: tuple[int, ...]
    classes: Classes
    shares: Shares

    def count(self, kind: int) -> int:
        """How many boxes are of this class."""
        return int((self.classes == kind).sum())


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: a panel for each group of heads. `left_out` counts the groups beyond the first MAX_PANELS."""

    name: str
    canvas: Canvas
    panels: tuple[Panel, ...]
    left_out: int = 0


def make_canvas(q_len: int, kv_len: int, tile_q: int, tile_kv: int) -> Canvas:
    """A canvas with at most MAX_BOXES boxes a side; boxes are whole tiles."""
    per_q = -(-max(1, -(-q_len // tile_q)) // MAX_BOXES)
    per_kv = -(-max(1, -(-kv_len // tile_kv)) // MAX_BOXES)
    return Canvas(q_len, kv_len, tile_q, tile_kv, tile_q * per_q, tile_kv * per_kv)


def make_picture(
    name: str, canvas: Canvas, heads: Sequence[int], classify: Classify, visible: Visible, pixels: int = 512
) -> Picture:
    """The picture of a mask for these heads; heads with the same boxes and the same pixels share a panel."""
    groups: dict[bytes, tuple[list[int], Classes, Shares]] = {}
    for head in heads:
        classes = classify(head, canvas.box_q, canvas.box_kv)
        shares = _shares(canvas, classes, partial(visible, head), pixels)
        groups.setdefault(classes.tobytes() + shares.tobytes(), ([], classes, shares))[0].append(head)
    panels = [Panel(tuple(members), classes, shares) for members, classes, shares in groups.values()]
    return Picture(name, canvas, tuple(panels[:MAX_PANELS]), max(0, len(panels) - MAX_PANELS))


def _shares(
    canvas: Canvas,
    classes: Classes,
    visible: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]],
    pixels: int,
) -> Shares:
    """How much of each pixel is visible; the mask is evaluated only in partial boxes, at most four pairs a pixel."""
    height, width = min(canvas.q_len, pixels), min(canvas.kv_len, pixels)
    shares = np.zeros((height, width), np.float32)
    if height == 0 or width == 0:
        return shares
    q, kv = _samples(canvas.q_len, height), _samples(canvas.kv_len, width)  # [height, 2], [width, 2]
    rows, columns = q // canvas.box_q, kv // canvas.box_kv
    for row in range(height):
        for q_position, box_row in {int(p): int(r) for p, r in zip(q[row], rows[row], strict=True)}.items():
            shares[row] += _row(classes[box_row], q_position, kv, columns, visible)
    counts = np.array([len(set(map(int, row))) for row in q], np.float32)
    return shares / counts[:, None]


def _row(
    classes: NDArray[np.uint8],
    q_position: int,
    kv: NDArray[np.int64],
    columns: NDArray[np.int64],
    visible: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]],
) -> NDArray[np.float32]:
    """The visible share of each pixel for one query."""
    kinds = classes[columns]  # [width, 2]
    seen = (kinds == FULL).astype(np.float32)
    unknown = kinds == PARTIAL
    if unknown.any():
        seen[unknown] = visible(np.array([q_position]), kv[unknown])[0]
    share: NDArray[np.float32] = seen.mean(axis=1)
    return share


def _samples(length: int, pixels: int) -> NDArray[np.int64]:
    """Two positions inside each pixel, the same one twice where a pixel is one position. Shape [pixels, 2]."""
    edges = np.arange(pixels + 1, dtype=np.int64) * length // pixels
    first, size = edges[:-1], np.diff(edges)
    return np.stack((first + size // 4, first + (3 * size) // 4), axis=1)

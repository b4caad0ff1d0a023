"""Which tiles a kernel visits, as text: loops with their counts, and where each step starts.

A program owns a tile of one axis and walks tiles of the other. Every kernel has two loops: over the tiles that the mask
must cut, or that reach past the end, and over those that need neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attncc.analysis.shape import depends
from attncc.analysis.tiles import TileTest
from attncc.emit.kernel import Argument
from attncc.ir import TRUE

#: The tensors of a table, in the order in which kernels take them.
TABLE_POINTERS: Final = ("partial_count_ptr", "partial_index_ptr", "full_count_ptr", "full_index_ptr")


@dataclass(frozen=True, slots=True)
class Walk:
    """The words for one axis: its index, start, length and tile size, and those of the tiles on it."""

    start: str
    length: str
    tile: str


QUERIES: Final = Walk("q_start", "q_len", "TILE_Q")
KEYS: Final = Walk("kv_start", "kv_len", "TILE_KV")


@dataclass(frozen=True, slots=True)
class Visits:
    """What is computed before the loops, and for each loop its count and the lines that begin a step."""

    before: tuple[str, ...]
    partial_count: str
    partial_start: tuple[str, ...]
    full_count: str
    full_start: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    tabulated: bool = False


def visits(test: TileTest, walked: Walk) -> Visits:
    """Every tile where nothing can be skipped, otherwise what a table lists."""
    return _dense(walked) if test.visit is TRUE and test.full is TRUE else _listed(test, walked)


def _dense(walked: Walk) -> Visits:
    return Visits(
        before=(f"full_count = {walked.length} // {walked.tile}",),
        partial_count=f"tl.cdiv({walked.length}, {walked.tile}) - full_count",
        partial_start=(f"{walked.start} = (full_count + step) * {walked.tile}",),
        full_count="full_count",
        full_start=(f"{walked.start} = step * {walked.tile}",),
    )


def _listed(test: TileTest, walked: Walk) -> Visits:
    """Tiles from a table with a row for each tile of the other axis, and for each (b, h) that differs."""
    by_batch, by_head = table_axes(test)
    row = {
        (False, False): "tile",
        (False, True): "h * tiles + tile",
        (True, False): "b * tiles + tile",
        (True, True): "(b * heads + h) * tiles + tile",
    }[by_batch, by_head]
    width = f"tl.cdiv({walked.length}, {walked.tile})"
    return Visits(
        before=(
            f"table_row = {row}",
            "partial_count = tl.load(partial_count_ptr + table_row)",
            "full_count = tl.load(full_count_ptr + table_row)",
            f"partial_tiles = partial_index_ptr + table_row.to(tl.int64) * {width}",
            f"full_tiles = full_index_ptr + table_row.to(tl.int64) * {width}",
        ),
        partial_count="partial_count",
        partial_start=(f"{walked.start} = tl.load(partial_tiles + step) * {walked.tile}",),
        full_count="full_count",
        full_start=(f"{walked.start} = tl.load(full_tiles + step) * {walked.tile}",),
        arguments=tuple(Argument(name, "*i32", divisible=True) for name in TABLE_POINTERS),
        tabulated=True,
    )


def table_axes(test: TileTest) -> tuple[bool, bool]:
    """Whether the rows of a table differ between sequences, and between heads."""
    used = depends(test.visit) | depends(test.full)
    for statistic in test.statistics:
        used |= depends(statistic.expr)
    return "b" in used, "h" in used

"""Which tiles a kernel visits, as text: loops with their counts, and where each step starts.

A program owns a tile of one axis and walks tiles of the other. Every kernel has two loops: over the tiles that the mask
must cut, or that reach past the end, and over those that need neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.bands import Bands, Dense, MaskShape, Range, Tabulated
from attncc.analysis.shape import depends
from attncc.analysis.tiles import TileTest
from attncc.emit.kernel import Argument
from attncc.ir import FALSE, TRUE

#: Ranges that a loop walks; more of them are looked up in a table.
MAX_BANDS: Final = 2
#: Turns expressions into pieces of text.
Write = Callable[..., Sequence[str]]

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
    """What is computed before the loops, and for each loop its count and the lines that begin a step.

    `lists` name where the tiles of each loop are listed, where they come from a table."""

    before: tuple[str, ...]
    partial_count: str
    partial_start: tuple[str, ...]
    full_count: str
    full_start: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    at_most_one_partial: bool = False
    lists: tuple[str, str] | None = None

    def steps(self, walked: Walk, masked: bool) -> dict[str, tuple[str, ...]]:
        """The lines before a loop, and those that begin a step.

        Where tiles are listed each step reads where the next begins: Triton would fetch an address ahead as it fetches
        tiles, and then wait for every tile as long as memory takes.
        """
        count, start = self._loop(masked)
        if self.lists is None:
            return {"setup": (), "start": start}
        tiles = self.lists[not masked]
        return {
            "setup": (_listed_index("tile_index", tiles, "0", count),),
            "start": (
                f"{walked.start} = tile_index * {walked.tile}",
                _listed_index("tile_index", tiles, "step + 1", count),
            ),
        }

    def neighbours(self, walked: Walk, masked: bool) -> dict[str, tuple[str, ...]]:
        """The lines that find the tiles of the steps beside a step, into `next_start` and `before_start`.

        `setup` stands before the loop; `first` finds the first tile there, as the next; `last` finds the last behind
        the loop, as the one before. The last step has itself as the next, and the first itself as the one before.
        """
        count, start = self._loop(masked)
        if self.lists is None:
            found = {
                "first": _other_step(start, "0", "next", walked),
                "next": (
                    f"next_step = tl.minimum(step + 1, {count} - 1)",
                    *_other_step(start, "next_step", "next", walked),
                ),
                "before": (
                    "before_step = tl.maximum(step - 1, 0)",
                    *_other_step(start, "before_step", "before", walked),
                ),
                "last": (f"last_step = tl.maximum({count} - 1, 0)", *_other_step(start, "last_step", "before", walked)),
            }
            return {"setup": (), **found}
        tiles, index = self.lists[not masked], _listed_index
        at_next, at_before = (f"{word}_start = {word}_index * {walked.tile}" for word in ("next", "before"))
        return {
            "setup": (index("next_index", tiles, "1", count), "before_index = tile_index"),
            "first": (f"next_start = tile_index * {walked.tile}",),
            "next": (at_next, index("next_index", tiles, "step + 2", count)),
            "before": (at_before, index("before_index", tiles, "step", count)),
            "last": (at_before,),
        }

    def _loop(self, masked: bool) -> tuple[str, tuple[str, ...]]:
        return (self.partial_count, self.partial_start) if masked else (self.full_count, self.full_start)


def _listed_index(name: str, tiles: str, at: str, count: str) -> str:
    """The line that reads a list, and nothing beyond its end."""
    place = tiles if at == "0" else f"{tiles} + {at}"
    return f"{name} = tl.load({place}, mask={at if at != '0' else 0} < {count}, other=0)"


def _other_step(lines: Sequence[str], step: str, word: str, walked: Walk) -> tuple[str, ...]:
    """The lines that begin a step, for another, under names of their own."""
    names = {"step": step, "tile_index": f"{word}_index", walked.start: f"{word}_start"}
    found = (re.sub(rf"\b({'|'.join(names)})\b", lambda name: names[name[0]], line) for line in lines)
    return tuple(re.sub(r" \+ 0\b", "", line).replace(f" = 0 * {walked.tile}", " = 0") for line in found)


def is_tabulated(shape: MaskShape) -> bool:
    """Whether tiles come from a table: where neither all are visited alike, nor a few ranges hold just those."""
    match shape:
        case Dense(full, test):
            return not full and test.full is not FALSE
        case Bands(kv_ranges, q_ranges, _, exact):
            return not exact or max(len(kv_ranges), len(q_ranges)) > MAX_BANDS
        case Tabulated():
            return True


def visits(shape: MaskShape, walked: Walk, write: Write) -> Visits:
    """The tiles of the walked axis that a program visits. `write` turns expressions in the owned tile into names."""
    if is_tabulated(shape):
        return _listed(shape.test, walked)
    if isinstance(shape, Bands):
        return _banded(shape.kv_ranges if walked is KEYS else shape.q_ranges, walked, write)
    return _all_full(walked) if shape.test.full is TRUE else _all_partial(walked)


def _all_full(walked: Walk) -> Visits:
    return Visits(
        before=(f"full_count = {walked.length} // {walked.tile}",),
        partial_count=f"tl.cdiv({walked.length}, {walked.tile}) - full_count",
        partial_start=(f"{walked.start} = (full_count + step) * {walked.tile}",),
        full_count="full_count",
        full_start=(f"{walked.start} = step * {walked.tile}",),
        at_most_one_partial=True,
    )


def _all_partial(walked: Walk) -> Visits:
    start = (f"{walked.start} = step * {walked.tile}",)
    return Visits((), f"tl.cdiv({walked.length}, {walked.tile})", start, "0", start)


def _banded(ranges: Sequence[Range], walked: Walk, write: Write) -> Visits:
    """Tiles from closed forms: of each range the tiles `first` to `last`, those from `full_first` to `full_last` full.

    A range that begins in the last tile of the one before begins with the next: no tile is visited twice.
    """
    lines: list[str] = []
    partial, full, jumps, full_jumps = [], [], [], []
    previous = ""
    for i, each in enumerate(ranges):
        start, stop, full_start, full_stop, when = write(
            each.start, each.stop, each.full_start, each.full_stop, each.when
        )
        first, last, full_first, full_last = (f"{word}_{i}" for word in ("first", "last", "full_first", "full_last"))
        begin = f"{start} // {walked.tile}"
        lines.append(f"{first} = {begin if not previous else f'tl.maximum({begin}, {previous})'}")
        end = f"tl.maximum(tl.cdiv({stop}, {walked.tile}), {first})"
        lines.append(f"{last} = {end if each.when is TRUE else f'tl.where({when}, {end}, {first})'}")
        lines.append(f"{full_first} = tl.minimum(tl.maximum(tl.cdiv({full_start}, {walked.tile}), {first}), {last})")
        lines.append(f"{full_last} = tl.minimum(tl.maximum({full_stop} // {walked.tile}, {full_first}), {last})")
        partial += [f"({full_first} - {first})", f"({last} - {full_last})"]
        full.append(f"({full_last} - {full_first})")
        jumps += [(previous, f"{first} - {previous}")] if previous else []
        jumps.append((full_first, f"{full_last} - {full_first}"))
        full_jumps += [(f"full_last_{i - 1}", f"{full_first} - full_last_{i - 1}")] if i else []
        previous = last
    lines += [f"partial_count = {' + '.join(partial) or '0'}", f"full_count = {' + '.join(full) or '0'}"]
    return Visits(
        tuple(lines),
        "partial_count",
        _jumping("first_0" if ranges else "0", jumps, walked),
        "full_count",
        _jumping("full_first_0" if ranges else "0", full_jumps, walked),
    )


def _jumping(first: str, jumps: Sequence[tuple[str, str]], walked: Walk) -> tuple[str, ...]:
    """The lines that turn the number of a step into the start of a tile, past the tiles of other loops."""
    lines = [f"tile_index = {first} + step"]
    lines += [f"tile_index = tl.where(tile_index >= {at}, tile_index + ({by}), tile_index)" for at, by in jumps]
    return (*lines, f"{walked.start} = tile_index * {walked.tile}")


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
        lists=("partial_tiles", "full_tiles"),
    )


def table_axes(test: TileTest) -> tuple[bool, bool]:
    """Whether the rows of a table differ between sequences, and between heads."""
    used = depends(test.visit) | depends(test.full)
    for statistic in test.statistics:
        used |= depends(statistic.expr)
    return "b" in used, "h" in used

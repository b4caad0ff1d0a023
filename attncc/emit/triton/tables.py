"""The kernels that fill the tables of tiles: one lists the tiles that a test leaves, one looks inside them.

Where what the test compares ascends along the walk, the tiles that can be visited lie between two bounds. A program
finds these by cutting the walk into CHUNK parts again and again, and walks only what lies between them; whether
captured values do ascend it reads on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from attncc.analysis.reach import reach
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN
from attncc.analysis.tiles import TileTest
from attncc.emit.kernel import Argument
from attncc.emit.printer import Place
from attncc.emit.triton.expressions import EVERYTHING, ONCE, body, rows
from attncc.emit.triton.kernels import Variant
from attncc.emit.triton.plan import Draft, Drawn, Role, argument_lines, common_values, pointer, size
from attncc.emit.triton.statistics import statistics_of
from attncc.emit.triton.visits import TABLE_POINTERS
from attncc.ir import Expr, Op, apply
from attncc.schedule.triton import AnySchedule

#: Tiles that a program of `list_tiles` looks at together.
CHUNK: Final = 128
SIZES: Final = ("table_heads", "batch", "heads", "q_len", "kv_len")


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound of the walk: the variable that becomes it, the lines that read and compute, and what holds before it."""

    name: str
    body: tuple[object, ...]
    before: str

    @property
    def advance(self) -> tuple[str, ...]:
        """The line that moves the bound past the parts before it."""
        return (f"{self.name} += part * before",)


#: Pairs that a warp of 32 threads looks at in registers, and the most warps of a program.
PAIRS_OF_A_WARP: Final = 4096
MOST_WARPS: Final = 8


def bounds_of(test: TileTest, walked: str) -> dict[str, Expr]:
    """What holds before each bound of the tiles to visit, where the statistics of the walked axis ascend."""
    ends = (KV_MIN, KV_MAX) if walked == "kv" else (Q_MIN, Q_MAX)
    own = [s for s in test.statistics if s.axis == walked]
    found = reach(test.visit, {*ends, *(end for s in own for end in (s.least, s.largest))})
    before = {"first": apply(Op.NOT, found.since), "last": found.until}
    return {name: root for name, root in before.items() if root.op is not Op.CONST}


def list_tiles(variant: Variant, schedule: AnySchedule, *, owns_queries: bool, readable: bool) -> Drawn:
    """The kernel that fills a table: for each tile of one axis, the tiles of the other that are visited."""
    draft = Draft(variant.guarded, variant.problem, "triton/tiles", readable=readable)
    test, walked = variant.test, "kv" if owns_queries else "q"
    tables, reads = statistics_of(draft, test, {"q": "q_tile", "kv": "kv_tile"})
    texts = draft.printer.print((Place("body", EVERYTHING),), test.visit, test.full)
    bounds = [_bound(draft, reads, name, root) for name, root in bounds_of(test, walked).items()]
    flagged = any(statistic.axis == walked for statistic in test.statistics)
    extra = [*draft.capture_arguments(test.visit, test.full), *tables]
    if bounds and flagged:
        extra.append((Argument("ascending_ptr", "*i1"), Role("ascending_ptr")))
    lines = draft.printer.lines["body"]
    said = [line for bound in bounds for line in (*bound.body, bound.before)]
    values = common_values(draft, schedule, ("The tiles that a mask visits.",)) | {
        **_words(owns_queries),
        "chunk": CHUNK,
        "arguments": argument_lines(extra),
        "bounds": bounds,
        "bounds_last": any(bound.name == "last" for bound in bounds),
        "flagged": flagged,
        "body": [*reads, *lines],
        "visit": texts[test.visit].text,
        "full": texts[test.full].text,
        "helpers": draft.helpers([*lines, *said, texts[test.visit].text, texts[test.full].text]),
    }
    arguments = [*(pointer(name, "*i32") for name in TABLE_POINTERS), *extra, *map(size, SIZES)]
    return Drawn(values, tuple(arguments))


def _bound(draft: Draft, reads: list[str], name: str, root: Expr) -> Bound:
    """A bound in text, with those of the statistics read that it compares."""
    text = draft.printer.print((Place(name, EVERYTHING),), root)[root].text
    lines = draft.printer.lines[name]
    said = "\n".join([*map(str, lines), text])
    used = [line for line in reads if line.partition(" = ")[0] in said]
    return Bound(name, (*used, *lines), text)


def refine_tiles(variant: Variant, schedule: AnySchedule, *, owns_queries: bool, readable: bool) -> Drawn:
    """The kernel that looks inside the partial tiles of a table, pair by pair."""
    draft = Draft(variant.guarded, variant.problem, "triton/refine", readable=readable)
    mask = variant.spec.mask
    owned = "q_idx" if owns_queries else "kv_idx"
    text = draft.printer.print((ONCE, rows(owned), body("body")), mask)[mask].text
    extra = draft.capture_arguments(mask)
    lines = draft.printer.lines
    tile_q, span_q = schedule.tile_q, _span(schedule)
    span = "TILE_Q" if span_q == tile_q else "SPAN_Q"
    values = common_values(draft, schedule, ("The tiles that a mask cuts, looked into.",)) | {
        **_words(owns_queries),
        "arguments": argument_lines(extra),
        **{place: lines.get(place, []) for place in ("once", "rows", "body")},
        "mask": text,
        "span_q": span_q,
        "span": span,
        "in_tile": f"tl.arange(0, {span})" if span_q == tile_q else f"tl.minimum(tl.arange(0, {span}), TILE_Q - 1)",
        "helpers": draft.helpers([*(line for each in lines.values() for line in each), text]),
    }
    arguments = [*(pointer(name, "*i32") for name in TABLE_POINTERS), *extra, *map(size, SIZES)]
    return Drawn(values, tuple(arguments))


def refining_warps(schedule: AnySchedule) -> int:
    """The warps that look inside a tile, so that each thread's share of its pairs fits into registers."""
    return max(schedule.num_warps, min(MOST_WARPS, _span(schedule) * schedule.tile_kv // PAIRS_OF_A_WARP))


def _span(schedule: AnySchedule) -> int:
    """The power of two that holds a tile's queries."""
    return 1 << (schedule.tile_q - 1).bit_length()


def _words(owns_queries: bool) -> Mapping[str, object]:
    owned, walked = ("queries", "keys") if owns_queries else ("keys", "queries")
    return {"owns_queries": owns_queries, "owned": owned, "walked": walked}

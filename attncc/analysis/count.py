"""How many tiles a solved mask visits, without looking at pairs.

A row of tiles costs what its ranges cost, and one tile test for each tile that the full ranges leave open: at most a
few for masks whose ranges are exact. Where rows follow straight lines they are summed in closed form, so that a million
positions cost no more than a thousand; otherwise they are counted one by one. Masks that read captured tensors along
the sequence are counted where the tensors are.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.bands import Bands, MaskShape, Range, Tabulated
from attncc.analysis.compiled import names_of, settled
from attncc.analysis.lazy import Program, program_of
from attncc.analysis.lines import Line
from attncc.analysis.quotients import Unsolvable
from attncc.analysis.runs import Run, column_sums, runs
from attncc.analysis.shape import reads_captures
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN
from attncc.errors import UnsupportedError
from attncc.ir import KV_LEN, Expr, const

#: What finding a tile costs, in tiles of work: a test is a few dozen integer operations against the thousand cycles of
#: a tile, a table's entry one load, and a table one more kernel launch.
TEST_COST: Final = 0.03
ENTRY_COST: Final = 0.002
TABLE_COST: Final = 20.0
ENDS: Final = tuple(str(end.value) for end in (Q_MIN, Q_MAX, KV_MIN, KV_MAX))
LENGTHS: Final = ("q_len", "kv_len")
#: Up to this many tiles are tested one by one; where more cannot be taken in pieces, rows are counted one by one.
MAX_SINGLE: Final = 3
MAX_OPEN: Final = 64
#: More tests than this, of one tile or of a piece of a row, are made for many tiles at once, which is not done here.
MAX_TESTS: Final = 40_000


#: The ranges of a mask that has none.
WHOLE: Final = (Range(const(0), KV_LEN, const(0), const(0)),)


@dataclass(frozen=True, slots=True)
class Counts:
    """Tiles of one head by what a kernel does with them."""

    full: int
    partial: int
    skipped: int

    @property
    def visited(self) -> int:
        """Tiles whose scores are computed."""
        return self.full + self.partial


@dataclass(frozen=True, slots=True)
class Grid:
    """A problem's lengths and the tile that a kernel holds."""

    q_len: int
    kv_len: int
    tile_q: int
    tile_kv: int

    @property
    def tiles(self) -> int:
        """The number of tiles, visited or not."""
        return -(-self.q_len // self.tile_q) * -(-self.kv_len // self.tile_kv)


def count_tiles(shape: MaskShape, grid: Grid, inputs: Mapping[str, int]) -> Counts:
    """The tiles of one batch and head. `inputs` holds b, h, batch, heads and the parameters by name.

    Raises UnsupportedError for a mask that reads captured tensors, and where more than MAX_TESTS tests would be needed.
    """
    totals = [run.totals for run in row_runs(shape, grid, inputs)]
    full, partial = (sum(total[i] for total in totals) for i in range(2))
    return Counts(full, partial, grid.tiles - full - partial)


def row_runs(shape: MaskShape, grid: Grid, inputs: Mapping[str, int]) -> list[Run]:
    """The numbers of full and partial tiles in each row, and of those inside the ranges, as runs of rows; the runs
    stand in no order of rows."""
    row = _row_of(shape, grid, inputs)
    count = -(-grid.q_len // grid.tile_q)
    try:
        return runs(row, count)
    except Unsolvable:
        return [Run(1, row(i), (0, 0, 0)) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Choice:
    """How a kernel finds its tiles: by `ranges` alone, by a `test` of each tile inside them, or from a `table`.

    `costs` are in tiles of work, for all heads and passes that share the tiles.
    """

    kind: str
    costs: Mapping[str, float]

    @property
    def reason(self) -> str:
        """The choice in words."""
        others = ", ".join(f"{kind} {cost:,.0f}" for kind, cost in self.costs.items() if kind != self.kind)
        return f"{self.kind} cost {self.costs[self.kind]:,.0f} tiles of work; {others}"


def choose(shape: MaskShape, grid: Grid, inputs: Mapping[str, int], uses: int = 1) -> Choice:
    """The cheapest way to find the tiles; `uses` counts the heads and passes that would read one table."""
    totals = [run.totals for run in row_runs(shape, grid, inputs)]
    visited, reached = sum(full + partial for full, partial, _ in totals), sum(inside for _, _, inside in totals)
    costs = {
        "ranges": float(uses * reached),
        "test": uses * (visited + TEST_COST * reached),
        "table": uses * visited * (1 + ENTRY_COST) + TEST_COST * reached + TABLE_COST,
    }
    return Choice(min(costs, key=lambda kind: costs[kind]), costs)


def rows(shape: MaskShape, grid: Grid, inputs: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """For each row of tiles how many are full and how many partial."""
    row = _row_of(shape, grid, inputs)
    return (row(i)[:2] for i in range(-(-grid.q_len // grid.tile_q)))


def _row_of(shape: MaskShape, grid: Grid, inputs: Mapping[str, int]) -> Callable[[Any], tuple[int, int, int]]:
    """A function of a row's number: how many of its tiles are full, partial, and inside the ranges."""
    reads = any(reads_captures(root) for root in (shape.test.visit, shape.test.full))
    if isinstance(shape, Tabulated) or shape.test.statistics or reads:
        raise UnsupportedError("a mask that reads captured tensors is counted with their values")
    ranges = shape.kv_ranges if isinstance(shape, Bands) else WHOLE
    bounds = [e for r in ranges for e in (r.when, r.start, r.stop, r.full_start, r.full_stop)]
    roots = (shape.test.visit, shape.test.full, *bounds)
    known = tuple((name, inputs[name]) for name in _names(roots))
    program = _program(roots, known)
    exact = isinstance(shape, Bands) and shape.exact
    tests = itertools.count()

    def row(number: Any) -> tuple[int, int, int]:
        q_min = number * grid.tile_q
        q_max = min(q_min + grid.tile_q, grid.q_len) - 1
        return _Row(grid, program, program.row(q_min, q_max, grid.q_len, grid.kv_len), exact, tests).counts()

    return row


@functools.lru_cache(maxsize=64)
def _names(roots: tuple[Expr, ...]) -> tuple[str, ...]:
    """What the roots read besides a tile's ends and the lengths."""
    return tuple(name for name in names_of(*roots) if name not in (*ENDS, *LENGTHS))


@functools.lru_cache(maxsize=64)
def _program(roots: tuple[Expr, ...], known: tuple[tuple[str, int], ...]) -> Program:
    """The roots, compiled for these parameters; kept, so that another length costs no more than its evaluation."""
    return program_of([settled(root, dict(known)) for root in roots], (*ENDS[:2], *LENGTHS), ENDS[2:])


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of tiles: what it has in common, and the test of each tile."""

    grid: Grid
    program: Program
    values: list[Any]
    exact: bool
    tests: Iterator[int]

    def counts(self) -> tuple[int, int, int]:
        """Full and partial tiles, and those inside the ranges: each tile once, in ascending order."""
        full = partial = reached = cursor = 0
        width = self.grid.tile_kv
        for i in range(2, len(self.program.functions), 5):
            when, start, stop, full_start, full_stop = self.program.functions[i : i + 5]
            if not when(self.values, []):
                continue
            begin, until = start(self.values, []), stop(self.values, [])
            first, last = max(begin // width, cursor), -(-until // width)
            if until <= begin or last <= first:
                continue
            reached, cursor = reached + last - first, last
            inner, end = self._throughout(first, last, full_start(self.values, []), full_stop(self.values, []))
            full += end - inner
            for left, right in ((first, inner), (end, last)):
                whole, part = self._tested(left, right)
                full, partial = full + whole, partial + part
        return full, partial, reached

    def _throughout(self, first: Any, last: Any, start: Any, stop: Any) -> tuple[Any, Any]:
        """The tiles that need no test because the full range holds them."""
        if stop <= start:
            return last, last
        inner = max(first, -(-start // self.grid.tile_kv))
        # the last tile may be cut short by the sequence
        end = last if stop >= self.grid.kv_len else min(last, stop // self.grid.tile_kv)
        return (inner, end) if end > inner else (last, last)

    def _tested(self, begin: Any, until: Any) -> tuple[Any, Any]:
        """Full and partial tiles from begin to until by the tile test: a few one by one, more of them in pieces."""
        if begin >= until:
            return 0, 0
        if until - begin > MAX_SINGLE:
            try:
                whole, part = column_sums(self._truths, begin, until)
                return whole, part
            except Unsolvable:
                pass
        full, partial, made = 0, 0, 0
        lines = isinstance(begin, Line) or isinstance(until, Line)
        while begin < until:
            is_full, is_partial = self._truths(begin)
            full, partial, begin, made = full + is_full, partial + is_partial, begin + 1, made + 1
            if lines and made > MAX_OPEN:
                raise Unsolvable
        return full, partial

    def _truths(self, column: Any) -> tuple[bool, bool]:
        """Whether a tile is full, and whether partial."""
        kv_min = column * self.grid.tile_kv
        if next(self.tests) > MAX_TESTS:
            raise UnsupportedError("this mask has bounds that are no straight lines, and too many tiles")
        tile = self.program.tile(kv_min, min(kv_min + self.grid.tile_kv, self.grid.kv_len) - 1)
        visit, is_full = self.program.functions[:2]
        if is_full(self.values, tile):
            return True, False
        return False, bool(self.exact or visit(self.values, tile))

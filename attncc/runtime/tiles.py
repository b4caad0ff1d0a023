"""Which tiles a mask visits, for given lengths, captures and parameters.

They come from the same printed rules that the kernels go by, so what a report counts is what a kernel does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attncc.analysis import TileTest, depends
from attncc.emit import reads_of, render_tile_test
from attncc.ir import TRUE, Expr
from attncc.runtime.build import build
from attncc.runtime.tables import FULL, PARTIAL, SKIP
from attncc.runtime.visited import Tiles

__all__ = [
    "FULL",
    "PARTIAL",
    "SKIP",
    "Sizes",
    "TableFacts",
    "TileCount",
    "TileRow",
    "count_tiles",
    "differs_by",
    "table_facts",
    "tile_rows",
]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a call."""

    batch: int
    heads: int
    q_len: int
    kv_len: int


@dataclass(frozen=True, slots=True)
class TileRow:
    """The tiles of queries q0 to q1 (exclusive); `classes` is int8 over the tiles of keys: SKIP, PARTIAL or FULL."""

    q0: int
    q1: int
    classes: Tensor


@dataclass(frozen=True, slots=True)
class TileCount:
    """How many tiles there are of each class; `groups` counts the (b, h) that were looked at."""

    skipped: int
    partial: int
    full: int
    groups: int

    @property
    def total(self) -> int:
        """All tiles."""
        return self.skipped + self.partial + self.full

    @property
    def visited(self) -> int:
        """The tiles that a kernel computes."""
        return self.partial + self.full

    @property
    def share(self) -> float:
        """The visited tiles among all; 0 where there are none."""
        return self.visited / self.total if self.total else 0.0


def tile_rows(
    test: TileTest,
    sizes: Sizes,
    tile_q: int,
    tile_kv: int,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
    b: int = 0,
    h: int = 0,
    *,
    mask: Expr = TRUE,
) -> Iterator[TileRow]:
    """The rows of tiles of one sequence and head, from the first queries to the last; with a mask, refined by it."""
    if sizes.kv_len == 0:
        return
    visited = _tiles(test, sizes, tile_q, tile_kv, parameters, captures, mask)
    for q0, row in visited.rows(b, h):
        classes = torch.zeros(visited.grid.columns, dtype=torch.int8)
        for start, end, cut in row:
            classes[start:end] = PARTIAL if cut else FULL
        yield TileRow(q0, min(q0 + tile_q, sizes.q_len), classes)


def count_tiles(
    test: TileTest,
    sizes: Sizes,
    tile_q: int,
    tile_kv: int,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
    *,
    mask: Expr = TRUE,
) -> TileCount:
    """The number of tiles of each class, over all (b, h) that differ; with a mask, refined by it."""
    if sizes.q_len == 0 or sizes.kv_len == 0:
        return TileCount(0, 0, 0, 1)
    visited = _tiles(test, sizes, tile_q, tile_kv, parameters, captures, mask)
    batches, heads = (size if differs_by(test, axis) else min(size, 1) for axis, size in _axes(sizes))
    counted = [count_one(visited, b, h) for b in range(batches) for h in range(heads)]
    partial, full = (sum(each[i] for each in counted) for i in range(2))
    total = batches * heads * visited.grid.rows * visited.grid.columns
    return TileCount(total - partial - full, partial, full, batches * heads)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """How a table is made: of how many (b, h) the captured values ascend along the keys, so that rows are found by
    halving (None where that would not help, or where tiles follow from positions alone), and among how many (b, h)."""

    ascending: int | None
    groups: int


def table_facts(
    test: TileTest,
    sizes: Sizes,
    tile_q: int,
    tile_kv: int,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
) -> TableFacts:
    """What a call's captured values allow its table."""
    visited = _tiles(test, sizes, tile_q, tile_kv, parameters, captures, TRUE)
    batches, heads = (size if differs_by(test, axis) else min(size, 1) for axis, size in _axes(sizes))
    made = [visited.maker(b, h) for b in range(batches) for h in range(heads)]
    halves = any(s.axis == "kv" for s in test.statistics) and all(each.rules.reach is not None for each in made)
    return TableFacts(sum(each.ascending() for each in made) if halves else None, len(made))


def count_one(visited: Tiles, b: int, h: int) -> tuple[int, int]:
    """How many partial and full tiles one sequence and head has."""
    partial = full = 0
    for runs in visited.pieces(b, h):
        widths = runs.end - runs.start
        partial += int(widths[runs.kind == PARTIAL].sum())
        full += int(widths[runs.kind == FULL].sum())
    return partial, full


def _tiles(
    test: TileTest,
    sizes: Sizes,
    tile_q: int,
    tile_kv: int,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
    mask: Expr,
) -> Tiles:
    """The tiles of a call by the same rules that kernels go by."""
    tables, names = reads_of(test, mask)
    known = tuple((name, captures[name].dim(), str(captures[name].dtype).removeprefix("torch.")) for name in tables)
    rules = build(render_tile_test(test, known, mask), "tiles")
    given = [captures[name] for name in tables], [parameters[name] for name in names]
    whole = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    return Tiles(rules, whole, tile_q, tile_kv, *given, tuple(range(len(tables))), mask is not TRUE)


def differs_by(test: TileTest, axis: str) -> bool:
    """Whether the classes of tiles depend on the sequence (`b`) or the head (`h`)."""
    return any(axis in depends(root) for root in (test.visit, test.full, *(s.expr for s in test.statistics)))


def _axes(sizes: Sizes) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("b", sizes.batch), ("h", sizes.heads)

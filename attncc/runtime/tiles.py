"""Which tiles a mask visits, for given lengths, captures and parameters: row by row, never all at once.

The rows come from the same printed test that the kernels run, so what a report counts is what a kernel does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attncc.analysis import TileTest, depends
from attncc.emit import reads_of, render_tile_test
from attncc.runtime.build import build

SKIP, PARTIAL, FULL = 0, 1, 2


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
) -> Iterator[TileRow]:
    """The rows of tiles of one sequence and head, from the first queries to the last."""
    tables, names = reads_of(test)
    known = tuple((name, captures[name].dim(), str(captures[name].dtype).removeprefix("torch.")) for name in tables)
    walk = build(render_tile_test(test, known), "rows")
    device = captures[tables[0]].device if tables else torch.device("cpu")
    given = ([parameters[name] for name in names], [captures[name].detach() for name in tables])
    whole = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    count = -(-sizes.kv_len // tile_kv)
    if count == 0:
        return
    for q0, q1, visit, full in walk(whole, tile_q, tile_kv, *given, b, h, device):
        seen, whole_tile = (torch.as_tensor(t).flatten().cpu().expand(count) for t in (visit, full))
        yield TileRow(q0, q1, seen.to(torch.int8) + (seen & whole_tile))


def count_tiles(
    test: TileTest,
    sizes: Sizes,
    tile_q: int,
    tile_kv: int,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
) -> TileCount:
    """The number of tiles of each class, over all (b, h) that differ."""
    counts = torch.zeros(3, dtype=torch.int64)
    batches, heads = (size if differs_by(test, axis) else min(size, 1) for axis, size in _axes(sizes))
    for b in range(batches):
        for h in range(heads):
            for row in tile_rows(test, sizes, tile_q, tile_kv, parameters, captures, b, h):
                counts += torch.bincount(row.classes, minlength=3)
    skipped, partial, full = counts.tolist()
    return TileCount(skipped, partial, full, batches * heads)


def differs_by(test: TileTest, axis: str) -> bool:
    """Whether the classes of tiles depend on the sequence (`b`) or the head (`h`)."""
    return any(axis in depends(root) for root in (test.visit, test.full, *(s.expr for s in test.statistics)))


def _axes(sizes: Sizes) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("b", sizes.batch), ("h", sizes.heads)

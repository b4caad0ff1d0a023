"""Tables of the tiles that a mask visits: vectorised, in bounded pieces.

A table has a row for each tile of queries; a row is a few runs of neighbouring tiles of keys, partial or full. Small
tables are judged tile by tile, all rows at once. Where the tests of tiles turn once along the keys, as they do for
affine masks and for captured values that ascend, the runs are found by halving, O(tiles); everything else is judged
tile by tile in pieces, so that no table needs more memory at a time than `CELLS` tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

SKIP, PARTIAL, FULL = 0, 1, 2

#: Tiles that are judged at a time, and pairs that are looked at.
CELLS: Final = 1 << 15
PAIRS: Final = 1 << 18
#: Tables up to this size are judged tile by tile, whatever the mask: halving would take longer.
DIRECT: Final = 1 << 13

Extremes = Sequence[tuple[Tensor, Tensor, Tensor | None]]
Truth = Tensor | bool
Run = tuple[int, int, bool]


class Rules(NamedTuple):
    """What generated code knows of the tiles of one sequence and head.

    `values` are the statistics at every position, each with its axis. `judge` tells visited and full tiles by their
    ends and the extremes of the statistics; `reach` bounds both along ascending keys, where all statistics of keys
    ascend (`since`, `until` of visited tiles, then of full ones), `exact` saying that the bounds are the whole truth;
    `visible` is the mask itself.
    """

    device: torch.device
    values: Sequence[tuple[str, Tensor]]
    judge: Callable[..., tuple[Truth, Truth]]
    reach: Callable[..., tuple[Truth, Truth, Truth, Truth]] | None = None
    exact: bool = False
    visible: Callable[[Tensor, Tensor], Truth] | None = None


class Runs(NamedTuple):
    """The runs of `rows` consecutive rows, in ascending order: row, first tile, end, and class. Shapes: [n]."""

    rows: int
    row: Tensor
    start: Tensor
    end: Tensor
    kind: Tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.nbytes for part in self[1:])

    def lists(self) -> list[list[Run]]:
        """The runs of each row: start, end, and whether the mask must cut them."""
        found: list[list[Run]] = [[] for _ in range(self.rows)]
        for row, start, end, kind in zip(*(part.tolist() for part in self[1:]), strict=True):
            found[row].append((start, end, kind == PARTIAL))
        return found


@dataclass(frozen=True, slots=True)
class Grid:
    """The lengths of a call and the sizes of its tiles."""

    q_len: int
    kv_len: int
    tile_q: int
    tile_kv: int

    @property
    def rows(self) -> int:
        """How many tiles of queries there are."""
        return -(-self.q_len // self.tile_q)

    @property
    def columns(self) -> int:
        """How many tiles of keys there are."""
        return -(-self.kv_len // self.tile_kv)

    def ends(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First and last query and key of tiles."""
        q, kv = row * self.tile_q, column * self.tile_kv
        return (
            q,
            (q + (self.tile_q - 1)).clamp(max=self.q_len - 1),
            kv,
            (kv + (self.tile_kv - 1)).clamp(max=self.kv_len - 1),
        )


class TableMaker:
    """The table of one sequence and head, in pieces of consecutive rows."""

    def __init__(self, rules: Rules, grid: Grid, *, refine: bool = False) -> None:
        self.rules, self.grid, self.refine = rules, grid, refine
        sides = {"q": (grid.tile_q, grid.q_len), "kv": (grid.tile_kv, grid.kv_len)}
        self.extremes = [(axis, extremes(value, *sides[axis])) for axis, value in rules.values]

    def ascending(self) -> bool:
        """Whether the statistics of keys never fall from one tile to the next: what halving needs."""
        parts = [part for axis, (low, high, _) in self.extremes if axis == "kv" for part in (low, high)]
        return all(bool((part[1:] >= part[:-1]).all()) for part in parts)

    def pieces(self) -> Iterator[Runs]:
        """All rows, from the first to the last."""
        grid, rules = self.grid, self.rules
        cells = grid.rows * grid.columns
        if cells > DIRECT and rules.reach is not None and self.ascending():
            found = self._bounded() if rules.exact else self._within_bounds()
        else:
            step = max(1, (DIRECT if cells <= DIRECT else CELLS) // max(1, grid.columns))
            found = (self._judged(first, min(first + step, grid.rows)) for first in range(0, grid.rows, step))
        if not self.refine or rules.visible is None:
            yield from found
            return
        first = 0
        for runs in found:
            yield from self._refined(first, runs)
            first += runs.rows

    def _numbers(self, first: int, end: int) -> Tensor:
        return torch.arange(first, end, device=self.rules.device)

    def _at(self, row: Tensor, column: Tensor) -> tuple[Tensor | Extremes, ...]:
        """What tests of these tiles are asked with."""
        own = {"q": row, "kv": column}
        known = [
            (low[own[axis]], high[own[axis]], None if lost is None else lost[own[axis]])
            for axis, (low, high, lost) in self.extremes
        ]
        return (*self.grid.ends(row, column), known)

    def _classes(self, row: Tensor, column: Tensor, shape: Sequence[int]) -> Tensor:
        """The class of each of these tiles, int8 on the CPU."""
        visit, full = (torch.as_tensor(each).cpu() for each in self.rules.judge(*self._at(row, column)))
        return (visit.to(torch.int8) + (visit & full)).expand(shape)

    def _judged(self, first: int, end: int) -> Runs:
        """Rows whose tiles are all judged."""
        columns = self.grid.columns
        row, column = self._numbers(first, end)[:, None], self._numbers(0, columns)
        kind = self._classes(row, column, (end - first, columns)).reshape(-1)
        flat = torch.arange(kind.numel())
        return _runs(end - first, flat // columns, flat % columns, flat % columns + 1, kind)

    def _search(self, row: Tensor) -> Tensor:
        """For each row the first tile at which each bound turns, [4, rows]; the number of columns where none does."""
        assert self.rules.reach is not None
        count = self.grid.columns
        low = torch.zeros(4, len(row), dtype=torch.int64, device=row.device)
        high = torch.full_like(low, count)
        falls = torch.tensor([[False], [True], [False], [True]], device=row.device)  # since, until, since, until
        for _ in range(count.bit_length()):
            middle = (low + high) // 2
            known = self._at(row, middle.clamp(max=count - 1))
            turned = [torch.as_tensor(bound, device=row.device) for bound in self.rules.reach(*known)]
            past = torch.stack([each.expand(low.shape)[i] for i, each in enumerate(turned)]) ^ falls
            is_open = low < high
            high = torch.where(is_open & past, middle, high)
            low = torch.where(is_open & ~past, middle + 1, low)
        return low.cpu()

    def _bounded(self) -> Iterator[Runs]:
        """Rows of which the bounds tell everything: a run of visited tiles with a run of full ones inside."""
        step = CELLS // 8
        for first in range(0, self.grid.rows, step):
            end = min(first + step, self.grid.rows)
            start, stop, full, full_stop = self._search(self._numbers(first, end))
            full = torch.maximum(full, start).clamp(max=stop)
            full_stop = torch.minimum(full_stop, stop)
            full = torch.where(full < full_stop, full, stop)
            full_stop = torch.maximum(full_stop, full)
            starts, ends = torch.stack([start, full, full_stop], 1), torch.stack([full, full_stop, stop], 1)
            row, part = (starts < ends).nonzero().unbind(1)
            kind = torch.tensor([PARTIAL, FULL, PARTIAL], dtype=torch.int8)[part]
            yield _compact(end - first, row, starts[row, part], ends[row, part], kind)

    def _within_bounds(self) -> Iterator[Runs]:
        """Rows in whose bounds each tile is judged."""
        grid = self.grid
        step = CELLS // 8
        for first in range(0, grid.rows, step):
            start, stop, _, _ = self._search(self._numbers(first, min(first + step, grid.rows)))
            widths = (stop - start).clamp(min=0)
            for a, b in _shares(widths.tolist()):
                yield self._between(first + a, start[a:b], widths[a:b])

    def _between(self, first: int, start: Tensor, widths: Tensor) -> Runs:
        """Rows from `first`, each judged from `start` on."""
        row = torch.repeat_interleave(torch.arange(len(widths)), widths)
        column = torch.arange(len(row)) - (widths.cumsum(0) - widths - start)[row]
        device = self.rules.device
        kind = self._classes((row + first).to(device), column.to(device), row.shape)
        return _runs(len(widths), row, column, column + 1, kind)

    def _refined(self, first: int, runs: Runs) -> Iterator[Runs]:
        """The same rows, of which `first` is the first, with each partial tile looked at pair by pair."""
        partial = runs.kind == PARTIAL
        widths = torch.where(partial, runs.end - runs.start, 1).to(torch.int64)
        by_row = torch.zeros(runs.rows, dtype=torch.int64).index_add_(0, runs.row.long(), widths)
        for a, b in _shares(by_row.tolist()):
            some = slice(*torch.searchsorted(runs.row, torch.tensor([a, b], dtype=torch.int32)).tolist())
            piece = torch.repeat_interleave(torch.arange(some.start, some.stop), widths[some])
            begun = widths.cumsum(0) - widths
            row = runs.row[piece].long()
            start = (
                runs.start[piece].long() + torch.arange(len(piece)) + begun[some.start : some.stop][:1] - begun[piece]
            )
            end, kind = torch.where(partial[piece], start + 1, runs.end[piece].long()), runs.kind[piece]
            for at in torch.split(partial[piece].nonzero().squeeze(1), max(1, PAIRS // self._pairs)):
                kind[at] = self._looked_into(row[at] + first, start[at])
            yield _runs(b - a, row - a, start, end, kind)

    @property
    def _pairs(self) -> int:
        return self.grid.tile_q * self.grid.tile_kv

    def _looked_into(self, row: Tensor, column: Tensor) -> Tensor:
        """The class of tiles by the mask at each of their pairs, int8 on the CPU."""
        assert self.rules.visible is not None
        device = self.rules.device
        q_min, q_max, kv_min, kv_max = (each.to(device) for each in self.grid.ends(row, column))
        # tiles that reach past the end look at its last position again
        q = torch.minimum(q_min[:, None] + torch.arange(self.grid.tile_q, device=device), q_max[:, None])
        kv = torch.minimum(kv_min[:, None] + torch.arange(self.grid.tile_kv, device=device), kv_max[:, None])
        seen = torch.as_tensor(self.rules.visible(q[:, :, None], kv[:, None, :]), device=device)
        seen = seen.expand(len(row), *seen.shape[-2:]).flatten(1) if seen.dim() else seen.expand(len(row), 1)
        return (seen.any(1).to(torch.int8) + seen.all(1)).cpu()


def extremes(values: Tensor, tile: int, length: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Minimum and maximum by blocks of `tile` positions, and whether any is NaN, which takes no part in the others."""
    values = values.flatten().expand(length)
    if not values.is_floating_point():
        ends = (False, True) if values.dtype == torch.bool else _integer_ends(values.dtype)
        return _blocks(values, tile, ends[1]).amin(-1), _blocks(values, tile, ends[0]).amax(-1), None
    lost = values.isnan()
    low = _blocks(values.masked_fill(lost, torch.inf), tile, torch.inf).amin(-1)
    high = _blocks(values.masked_fill(lost, -torch.inf), tile, -torch.inf).amax(-1)
    return low, high, _blocks(lost, tile, False).any(-1)


def _integer_ends(dtype: torch.dtype) -> tuple[int, int]:
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _blocks(values: Tensor, tile: int, rest: float | bool) -> Tensor:
    """[N] as [blocks, tile], filled up with `rest`."""
    missing = -len(values) % tile
    if missing:
        values = torch.cat([values, values.new_full((missing,), rest)])
    return values.reshape(-1, tile)


def _shares(widths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cuts rows of these widths into pieces of at most CELLS tiles, but of one row at least."""
    first = total = 0
    for i, width in enumerate(widths):
        if total + width > CELLS and i > first:
            yield first, i
            first, total = i, 0
        total += width
    if first < len(widths):
        yield first, len(widths)


def _runs(rows: int, row: Tensor, start: Tensor, end: Tensor, kind: Tensor) -> Runs:
    """Runs in ascending order with neighbours of a class joined and what is skipped left out. Shapes: [n]."""
    if not len(kind):
        return _compact(rows, row, start, end, kind)
    turns = torch.ones(len(kind), dtype=torch.bool)
    turns[1:] = (kind[1:] != kind[:-1]) | (row[1:] != row[:-1]) | (start[1:] != end[:-1])
    at = turns.nonzero().squeeze(1)
    last = torch.cat([at[1:], at.new_tensor([len(kind)])]) - 1
    seen = kind[at] != SKIP
    at, last = at[seen], last[seen]
    return _compact(rows, row[at], start[at], end[last], kind[at])


def _compact(rows: int, row: Tensor, start: Tensor, end: Tensor, kind: Tensor) -> Runs:
    return Runs(rows, row.to(torch.int32), start.to(torch.int32), end.to(torch.int32), kind.to(torch.int8))

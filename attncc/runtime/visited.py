"""The tiles that a kernel visits, row by row: a table that is made once and remembered while nothing changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from attncc.runtime.tables import Grid, Rules, Run, Runs, TableMaker
from attncc.runtime.watch import Watch, watch

#: Bytes of a table that is remembered, of all together, and how many there may be.
MAX_TABLE: Final = 4 << 20
MAX_BYTES: Final = 32 << 20
MAX_TABLES: Final = 1024


class Memory:
    """Tables by what they were made from, the oldest forgotten first; a table whose captures changed is made again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[Watch, list[Runs], int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable, captures: Sequence[Tensor]) -> list[Runs] | None:
        """The table that was made from these captures as they are now."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            if not found[0].holds(captures):
                self._forget(key)
                return None
            self._kept.move_to_end(key)
            return found[1]

    def keep(self, key: Hashable, seen: Watch, table: list[Runs]) -> None:
        """Remember a table of captures as they were when `seen`."""
        size = sum(runs.size for runs in table)
        with self._lock:
            if key in self._kept:
                self._forget(key)
            self._kept[key] = seen, table, size
            self.size += size
            while self.size > MAX_BYTES or len(self._kept) > MAX_TABLES:
                self._forget(next(iter(self._kept)))

    def _forget(self, key: Hashable) -> None:
        self.size -= self._kept.pop(key)[2]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.size = 0


MEMORY: Final = Memory()


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """The tiles that a mask visits in one call. `rules` makes the Rules of a sequence and head; `reads` are the
    captures, by number, from which tiles follow."""

    rules: Callable[..., Rules]
    sizes: tuple[int, int, int, int]
    tile_q: int
    tile_kv: int
    captures: Sequence[Tensor] = ()
    parameters: Sequence[int] = ()
    reads: tuple[int, ...] = ()
    refine: bool = False

    @property
    def grid(self) -> Grid:
        """Lengths and tiles."""
        return Grid(*self.sizes[2:], self.tile_q, self.tile_kv)

    def pieces(self, b: int = 0, h: int = 0) -> Iterator[Runs]:
        """The table of a sequence and head, in pieces of consecutive rows; from memory if it is there."""
        read = [self.captures[i] for i in self.reads]
        key = (self.rules, self.sizes, self.tile_q, self.tile_kv, tuple(self.parameters), self.refine, b, h)
        known = MEMORY.find(key, read)
        if known is not None:
            yield from known
            return
        seen, kept, size = watch(read), list[Runs](), 0
        for runs in self.maker(b, h).pieces():
            size += runs.size
            kept = [*kept, runs] if size <= MAX_TABLE else []
            yield runs
        if seen is not None and size <= MAX_TABLE:
            MEMORY.keep(key, seen, kept)

    def maker(self, b: int, h: int) -> TableMaker:
        """What makes the table of a sequence and head."""
        rules = self.rules(self.sizes, self.captures, self.parameters, b, h)
        return TableMaker(rules, self.grid, refine=self.refine)

    def rows(self, b: int = 0, h: int = 0) -> Iterator[tuple[int, list[Run]]]:
        """For each row of tiles its first query and its runs."""
        q0 = 0
        for runs in self.pieces(b, h):
            for row in runs.lists():
                yield q0, row
                q0 += self.tile_q


@dataclass(frozen=True, slots=True, eq=False)
class AllTiles:
    """Every tile, of a mask that hides nothing."""

    sizes: tuple[int, int, int, int]
    tile_q: int
    tile_kv: int

    def rows(self, b: int = 0, h: int = 0) -> Iterator[tuple[int, list[Run]]]:
        """For each row of tiles its first query and its runs."""
        whole = [(0, -(-self.sizes[3] // self.tile_kv), False)]
        return ((q0, whole) for q0 in range(0, self.sizes[2], self.tile_q))

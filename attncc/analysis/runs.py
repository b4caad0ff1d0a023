"""Sums over rows of tiles in closed form: the rows are cut into runs along which everything is a straight line.

One row is worked out with numbers that know their slope: how they change from a row to the row `stride` further on.
Each comparison on the way tells how many more rows it comes out the same, so the least of them ends the run, and along
it each count is a line too. A quotient is a line where its divisor divides the slope, which a larger stride arranges.
The columns of a row are cut in the same way, with ends that are lines along the rows. A mask costs a few tiles for each
of its pieces, whatever the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.lines import Column, Limit, Line, Unsolvable, Wider

__all__ = ["Run", "Unsolvable", "column_sums", "runs"]

#: Strides beyond this are not tried, and pieces of fewer rows than this on average are not worth their bookkeeping.
MAX_STRIDE: Final = 256
MIN_ROWS: Final = 4
TRIED_RUNS: Final = 16
#: Runs beyond which the rows are taken one by one, and pieces of a row beyond which its columns are.
MAX_RUNS: Final = 1024
MAX_PIECES: Final = 512


@dataclass(frozen=True, slots=True)
class Run:
    """`count` rows whose values are start, start + slope, start + 2 * slope and so on."""

    count: int
    start: tuple[int, ...]
    slope: tuple[int, ...]

    @property
    def last(self) -> tuple[int, ...]:
        """The values of the last row."""
        return tuple(a + s * (self.count - 1) for a, s in zip(self.start, self.slope, strict=True))

    @property
    def totals(self) -> tuple[int, ...]:
        """The sums over all rows."""
        n = self.count
        return tuple(n * a + s * (n * (n - 1) // 2) for a, s in zip(self.start, self.slope, strict=True))


def runs(row: Callable[[Any], Sequence[Any]], count: int) -> list[Run]:
    """The values of row(0) to row(count - 1) as runs. `row` computes with whole numbers; where it does more than that,
    or where runs would be shorter than MIN_ROWS on average, this raises Unsolvable."""
    stride = 1
    while True:
        try:
            return list(_runs(row, count, stride))
        except Wider as wider:
            stride *= wider.factor
            if stride > MAX_STRIDE:
                raise Unsolvable from None


def _runs(row: Callable[[Any], Sequence[Any]], count: int, stride: int) -> Iterator[Run]:
    made = covered = 0
    for first in range(min(stride, count)):
        at = first
        while at < count:
            limit = Limit((count - 1 - at) // stride)
            values = [_parts(value) for value in row(Line(at, stride, limit))]
            rows = limit.rows + 1
            yield Run(rows, tuple(v for v, _ in values), tuple(s for _, s in values))
            at += rows * stride
            made, covered = made + 1, covered + rows
            if made > MAX_RUNS or (made >= TRIED_RUNS and covered < made * MIN_ROWS):
                raise Unsolvable


def _parts(number: Any) -> tuple[int, int]:
    if isinstance(number, Line):
        return number.value, number.slope
    if isinstance(number, int):
        return int(number), 0
    raise Unsolvable


def column_sums(truths: Callable[[Any], Sequence[bool]], first: Any, stop: Any, stride: int = 1) -> tuple[Any, ...]:
    """How often each of truths(first) to truths(stop - 1) is True; the ends may be lines along rows. Raises Unsolvable
    where that takes too many pieces."""
    while True:
        try:
            return _column_sums(truths, first, stop, stride)
        except Wider as wider:
            if wider.kind is not Column:
                raise
            stride *= wider.factor
            if stride > MAX_STRIDE:
                raise Unsolvable from None


def _column_sums(truths: Callable[[Any], Sequence[bool]], first: Any, stop: Any, stride: int) -> tuple[Any, ...]:
    totals: list[Any] = []
    pieces = 0
    for offset in range(stride):
        at = first + offset
        while at < stop:
            limit = Limit((stop - 1 - at) // stride)
            found = truths(Column(at, stride, limit))
            count = limit.rows + 1
            totals = totals or [0] * len(found)
            totals = [total + count if truth else total for total, truth in zip(totals, found, strict=True)]
            at = at + count * stride
            pieces += 1
            if pieces > MAX_PIECES:
                raise Unsolvable
    return tuple(totals)

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

from attncc.analysis.lines import Column, Limit, Line
from attncc.analysis.quotients import Unsolvable, Wider, exact

__all__ = ["Run", "Unsolvable", "column_sums", "runs"]

#: Strides beyond this are not tried, and pieces of fewer rows than this on average are not worth their bookkeeping.
MAX_STRIDE: Final = 256
MIN_ROWS: Final = 4
TRIED_RUNS: Final = 16
#: So many rows (or columns) in succession that are no part of a run are worked out alone; then the stride grows.
MAX_ALONE: Final = 1
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
    made: list[Run] = []
    covered = 0
    for run in _runs(row, 0, 1, count):
        made.append(run)
        covered += run.count
        if len(made) > MAX_RUNS or (len(made) >= TRIED_RUNS and covered < len(made) * MIN_ROWS):
            raise Unsolvable
    return made


def _runs(row: Callable[[Any], Sequence[Any]], at: int, stride: int, stop: int) -> Iterator[Run]:
    """The rows at, at + stride and so on below stop."""
    singles = 0
    while at < stop:
        limit = Limit((stop - 1 - at) // stride)
        try:
            values = [_parts(exact(value)) for value in row(Line(at, stride, limit))]
            singles = 0
        except Wider as wider:
            if singles == MAX_ALONE:
                for offset in range(factor := _factor(wider.rows, stride)):
                    yield from _runs(row, at + offset * stride, stride * factor, stop)
                return
            values, limit.rows, singles = [_parts(value) for value in row(at)], 0, singles + 1
        yield Run(limit.rows + 1, tuple(v for v, _ in values), tuple(s for _, s in values))
        at += (limit.rows + 1) * stride


def _factor(factor: int, stride: int) -> int:
    if factor == 1 or stride * factor > MAX_STRIDE:
        raise Unsolvable
    return factor


def _parts(number: Any) -> tuple[int, int]:
    if isinstance(number, Line):
        return number.value, number.slope
    if isinstance(number, int):
        return int(number), 0
    raise Unsolvable


def column_sums(truths: Callable[[Any], Sequence[bool]], first: Any, stop: Any) -> tuple[Any, ...]:
    """How often each of truths(first) to truths(stop - 1) is True; the ends may be lines along rows. Raises Unsolvable
    where that takes too many pieces."""
    totals: tuple[Any, ...] = ()
    for pieces, (count, found) in enumerate(_pieces(truths, exact(first), 1, exact(stop))):
        totals = totals or (0,) * len(found)
        totals = tuple(total + count if truth else total for total, truth in zip(totals, found, strict=True))
        if pieces >= MAX_PIECES:
            raise Unsolvable
    return totals


def _pieces(
    truths: Callable[[Any], Sequence[bool]], at: Any, stride: int, stop: Any
) -> Iterator[tuple[Any, Sequence[bool]]]:
    """For the columns at, at + stride and so on below stop: for how many of them which truths hold."""
    singles = 0
    while at < stop:
        limit = Limit(exact((stop - 1 - at) // stride))
        try:
            found = truths(Column(at, stride, limit))
            singles = 0
        except Wider as wider:
            if wider.columns == 1:
                raise
            if singles == MAX_ALONE:
                for offset in range(factor := _factor(wider.columns, stride)):
                    yield from _pieces(truths, at + offset * stride, stride * factor, stop)
                return
            found, limit.rows, singles = truths(at), 0, singles + 1
        yield limit.rows + 1, found
        at = at + (limit.rows + 1) * stride

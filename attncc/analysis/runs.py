"""Sums over rows of tiles in closed form: the rows are cut into runs along which everything is a straight line.

One row is worked out with numbers that know their slope: how they change from a row to the row `stride` further on.
Each comparison on the way tells how many more rows it comes out the same, so the least of them ends the run, and along
it each count is a line too. A quotient is a line where its divisor divides the slope, which a larger stride arranges.
A mask costs a few rows for each of its pieces, whatever the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Strides beyond this are not tried, and pieces of fewer rows than this on average are not worth their bookkeeping.
MAX_STRIDE: Final = 256
MIN_ROWS: Final = 4
TRIED_RUNS: Final = 16
#: Runs beyond which the rows are taken one by one.
MAX_RUNS: Final = 256


class Unsolvable(Exception):
    """The rows are no straight lines; they have to be worked out one by one."""


class _Wider(Exception):
    """The stride must be a multiple of this."""


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


class _Limit:
    """How many further rows of a run all comparisons so far come out the same."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def holds_while(self, value: int, slope: int) -> None:
        """value >= 0 holds now: for how many rows more?"""
        if slope < 0:
            self.rows = min(self.rows, value // -slope)


class Line:
    """A whole number with its slope. Comparisons give Bools and shorten the run."""

    __slots__ = ("limit", "slope", "value")

    def __init__(self, value: int, slope: int, limit: _Limit) -> None:
        self.value, self.slope, self.limit = value, slope, limit

    def _with(self, other: Any, sign: int) -> Line:
        value, slope = _split(other)
        return Line(self.value + sign * value, self.slope + sign * slope, self.limit)

    def __add__(self, other: Any) -> Line:
        return self._with(other, 1)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Line:
        return self._with(other, -1)

    def __rsub__(self, other: Any) -> Line:
        return (-self)._with(other, 1)

    def __neg__(self) -> Line:
        return Line(-self.value, -self.slope, self.limit)

    def __abs__(self) -> Line:
        return self if self.__ge__(0) else -self

    def __mul__(self, other: Any) -> Line:
        value, slope = _split(other)
        if self.slope and slope:
            raise Unsolvable
        return Line(self.value * value, self.slope * value + self.value * slope, self.limit)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Line:
        divisor, slope = _split(other)
        if slope:
            raise Unsolvable
        if self.slope % divisor:
            raise _Wider(abs(divisor) // math.gcd(self.slope, divisor))
        return Line(self.value // divisor, self.slope // divisor, self.limit)

    def __rfloordiv__(self, other: int) -> Line:
        if self.slope:
            raise Unsolvable
        return Line(other // self.value, 0, self.limit)

    def __mod__(self, other: Any) -> Line:
        return self._with(self.__floordiv__(other) * other, -1)

    def __rmod__(self, other: int) -> Line:
        return (self.__rfloordiv__(other) * self)._with(other, -1).__neg__()

    def __lt__(self, other: Any) -> bool:
        return not self.__ge__(other)

    def __le__(self, other: Any) -> bool:
        return not self.__gt__(other)

    def __gt__(self, other: Any) -> bool:
        return bool((self - other).__ge__(1))

    def __ge__(self, other: Any) -> bool:
        rest = self._with(other, -1)
        if rest.value >= 0:
            self.limit.holds_while(rest.value, rest.slope)
            return True
        self.limit.holds_while(-rest.value - 1, -rest.slope)
        return False

    def __eq__(self, other: object) -> bool:
        rest = self._with(other, -1)
        if rest.slope and rest.value == 0:
            self.limit.rows = 0
        elif rest.slope and rest.value:
            same = rest if rest.value > 0 else -rest
            self.limit.holds_while(same.value - 1, same.slope)
        return rest.value == 0

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # a line is no key

    def __bool__(self) -> bool:
        return self != 0

    def _no_number(self) -> Any:
        raise Unsolvable

    __int__ = __float__ = __index__ = _no_number


def _split(number: Any) -> tuple[int, int]:
    if isinstance(number, Line):
        return number.value, number.slope
    if isinstance(number, int):
        return int(number), 0
    raise Unsolvable


def runs(row: Callable[[Any], Sequence[Any]], count: int) -> list[Run]:
    """The values of row(0) to row(count - 1) as runs. `row` computes with whole numbers; where it does more than that,
    or where runs would be shorter than MIN_ROWS on average, this raises Unsolvable."""
    stride = 1
    while True:
        try:
            return _runs(row, count, stride)
        except _Wider as wider:
            stride *= int(wider.args[0])
            if stride > MAX_STRIDE:
                raise Unsolvable from None


def _runs(row: Callable[[Any], Sequence[Any]], count: int, stride: int) -> list[Run]:
    found: list[Run] = []
    covered = 0
    for first in range(min(stride, count)):
        at = first
        while at < count:
            limit = _Limit((count - 1 - at) // stride)
            values = [_split(value) for value in row(Line(at, stride, limit))]
            rows = limit.rows + 1
            found.append(Run(rows, tuple(v for v, _ in values), tuple(s for _, s in values)))
            at += rows * stride
            covered += rows
            if len(found) > MAX_RUNS or (len(found) >= TRIED_RUNS and covered < len(found) * MIN_ROWS):
                raise Unsolvable
    return found

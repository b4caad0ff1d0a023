"""Whole numbers that know their slope: how they change from a row of tiles to the next, and from a column to the next.

A comparison gives its Bool and notes for how many further rows (or columns) it stays the same. A `Line` changes along
rows; a `Column` along the columns of such a row, and its own value may be a `Line`. What does not change is an int, and
a quotient that is no line a `Between`.
"""

from __future__ import annotations

import math
from typing import Any

from attncc.analysis.quotients import Between, Unsolvable, exact


class Limit:
    """How many further rows (or columns) all comparisons so far come out the same."""

    __slots__ = ("rows",)

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def holds_while(self, value: Any, slope: int) -> None:
        """value >= 0 holds now: for how many more?"""
        if slope < 0:
            more = value // -slope
            if more < self.rows:
                self.rows = exact(more)


class Linear:
    """A number with its slope. Comparisons give Bools and shorten the run."""

    __slots__ = ("limit", "slope", "value")

    def __init__(self, value: Any, slope: int, limit: Limit) -> None:
        self.value, self.slope, self.limit = value, slope, limit

    def _split(self, other: Any) -> tuple[Any, int] | None:
        """Value and slope of another number; None for one that knows better how to go on."""
        raise NotImplementedError

    def _factors(self, divisor: int) -> tuple[int, int]:
        """By what the strides of rows and of columns have to grow for a quotient to be a line."""
        raise NotImplementedError

    def _made(self, value: Any, slope: int) -> Any:
        return type(self)(value, slope, self.limit) if slope else value

    def __add__(self, other: Any) -> Any:
        if other.__class__ is int:
            return type(self)(self.value + other, self.slope, self.limit)
        parts = self._split(other)
        return NotImplemented if parts is None else self._made(self.value + parts[0], self.slope + parts[1])

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if other.__class__ is int:
            return type(self)(self.value - other, self.slope, self.limit)
        parts = self._split(other)
        return NotImplemented if parts is None else self._made(self.value - parts[0], self.slope - parts[1])

    def __rsub__(self, other: Any) -> Any:
        parts = self._split(other)
        return NotImplemented if parts is None else self._made(parts[0] - self.value, parts[1] - self.slope)

    def __neg__(self) -> Any:
        return type(self)(-self.value, -self.slope, self.limit)

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __mul__(self, other: Any) -> Any:
        parts = self._split(other)
        if parts is None:
            return NotImplemented
        value, slope = parts
        if slope or not isinstance(value, int):
            raise Unsolvable
        return self._made(self.value * value, self.slope * value)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if not isinstance(other, int):
            raise Unsolvable
        if other < 0:
            return -self // -other
        value = self.value // other
        if not self.slope % other and value.__class__ is not Between:
            return self._made(value, self.slope // other)
        rows, columns = self._factors(other)
        return Between(self - (other - 1), self, other, rows, columns)

    def __rfloordiv__(self, other: Any) -> Any:
        raise Unsolvable

    def __mod__(self, other: Any) -> Any:
        quotient = self // other
        return quotient % other if quotient.__class__ is Between else self - quotient * other

    def __rmod__(self, other: Any) -> Any:
        raise Unsolvable

    def _is_at_least(self, value: Any, slope: int) -> bool:
        """Whether value + slope * k >= 0, now."""
        if not slope:
            return bool(value >= 0)
        if value >= 0:
            self.limit.holds_while(value, slope)
            return True
        self.limit.holds_while(-value - 1, -slope)
        return False

    def __ge__(self, other: Any) -> Any:
        parts = self._split(other)
        return NotImplemented if parts is None else self._is_at_least(self.value - parts[0], self.slope - parts[1])

    def __gt__(self, other: Any) -> Any:
        parts = self._split(other)
        return NotImplemented if parts is None else self._is_at_least(self.value - parts[0] - 1, self.slope - parts[1])

    def __lt__(self, other: Any) -> Any:
        parts = self._split(other)
        return NotImplemented if parts is None else not self._is_at_least(self.value - parts[0], self.slope - parts[1])

    def __le__(self, other: Any) -> Any:
        parts = self._split(other)
        return (
            NotImplemented if parts is None else not self._is_at_least(self.value - parts[0] - 1, self.slope - parts[1])
        )

    def __eq__(self, other: object) -> Any:
        parts = self._split(other)
        if parts is None:
            return NotImplemented
        value, slope = self.value - parts[0], self.slope - parts[1]
        if not slope:
            return bool(value == 0)
        if value == 0:
            self.limit.rows = 0
            return True
        value, slope = (value, slope) if value > 0 else (-value, -slope)
        self.limit.holds_while(value - 1, slope)
        return False

    def __ne__(self, other: object) -> Any:
        found = self.__eq__(other)
        return found if found is NotImplemented else not found

    __hash__ = None  # type: ignore[assignment]  # a line is no key

    def __bool__(self) -> bool:
        return bool(self != 0)

    def _no_number(self) -> Any:
        raise Unsolvable

    __int__ = __float__ = __index__ = _no_number


class Line(Linear):
    """A number along rows; its value is an int."""

    __slots__ = ()

    def _split(self, other: Any) -> tuple[Any, int] | None:
        if other.__class__ is Line:
            return other.value, other.slope
        if isinstance(other, int):
            return int(other), 0
        if other.__class__ is Column or other.__class__ is Between:
            return None
        raise Unsolvable

    def _factors(self, divisor: int) -> tuple[int, int]:
        return divisor // math.gcd(self.slope, divisor), 1


class Column(Linear):
    """A number along the columns of a row; its value is an int or a Line."""

    __slots__ = ()

    def _split(self, other: Any) -> tuple[Any, int] | None:
        if other.__class__ is Column:
            return other.value, other.slope
        if other.__class__ is Line:
            return other, 0
        if isinstance(other, int):
            return int(other), 0
        if other.__class__ is Between:
            return None
        raise Unsolvable

    def _factors(self, divisor: int) -> tuple[int, int]:
        rows = self.value._factors(divisor)[0] if isinstance(self.value, Line) else 1
        return rows, divisor // math.gcd(self.slope, divisor)

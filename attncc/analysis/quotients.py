"""Whole numbers of which it is known between which straight lines they lie.

A quotient is no straight line where its divisor does not divide the slope, but it lies between two. A comparison that
the two lines decide alike needs no more than that; one that they do not decide raises Wider.
"""

from __future__ import annotations

import math
from typing import Any


class Unsolvable(Exception):
    """The numbers are no straight lines; they have to be worked out one by one."""


class Wider(Exception):
    """A comparison is undecided here. Its quotients would be lines for a stride that is a multiple of `rows` along rows
    and of `columns` along columns."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(rows, columns)
        self.rows, self.columns = rows, columns


def exact(number: Any) -> Any:
    """The number, where it is known exactly."""
    if number.__class__ is Between:
        raise Wider(number.rows, number.columns)
    return number


def now(number: Any) -> int:
    """A line's value in the first row and column."""
    while not isinstance(number, int):
        number = number.value
    return number


class Between:
    """A whole number x with low <= divisor * x <= high. Comparisons give Bools and shorten the run."""

    __slots__ = ("columns", "divisor", "high", "low", "rows")

    def __init__(self, low: Any, high: Any, divisor: int, rows: int, columns: int) -> None:
        self.low, self.high, self.divisor = low, high, divisor
        self.rows, self.columns = rows, columns

    def _made(self, low: Any, high: Any, divisor: int) -> Between:
        return Between(low, high, divisor, self.rows, self.columns)

    def __add__(self, other: Any) -> Between:
        if other.__class__ is not Between:
            shift = other * self.divisor
            return self._made(self.low + shift, self.high + shift, self.divisor)
        divisor = math.lcm(self.divisor, other.divisor)
        mine, its = divisor // self.divisor, divisor // other.divisor
        low, high = self.low * mine + other.low * its, self.high * mine + other.high * its
        return Between(low, high, divisor, math.lcm(self.rows, other.rows), math.lcm(self.columns, other.columns))

    __radd__ = __add__

    def __neg__(self) -> Between:
        return self._made(-self.high, -self.low, self.divisor)

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __abs__(self) -> Between:
        return self if self >= 0 else -self

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            raise Unsolvable
        if other == 0:
            return 0
        low, high = (self.low, self.high) if other > 0 else (self.high, self.low)
        return self._made(low * other, high * other, self.divisor)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Between:
        if not isinstance(other, int):
            raise Unsolvable
        if other < 0:
            return -self // -other
        return self._made(self.low - self.divisor * (other - 1), self.high, self.divisor * other)

    def __rfloordiv__(self, other: Any) -> Any:
        raise Unsolvable

    def __mod__(self, other: Any) -> Between:
        if not isinstance(other, int):
            raise Unsolvable
        return self._made(0, other - 1, 1) if other > 0 else self._made(other + 1, 0, 1)

    def __rmod__(self, other: Any) -> Any:
        raise Unsolvable

    def _is_nonnegative(self) -> bool:
        if now(self.low) >= 0:
            return bool(self.low >= 0)
        if now(self.high) < 0:
            return bool(self.high >= 0)
        raise Wider(self.rows, self.columns)

    def __ge__(self, other: Any) -> bool:
        return bool((self - other)._is_nonnegative())

    def __gt__(self, other: Any) -> bool:
        return bool((self - other - 1)._is_nonnegative())

    def __lt__(self, other: Any) -> bool:
        return not self >= other

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __eq__(self, other: object) -> bool:
        difference = self - other
        if now(difference.low) > 0:
            return not difference.low > 0
        if now(difference.high) < 0:
            return not difference.high < 0
        raise Wider(difference.rows, difference.columns)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # nothing to find it by

    def __bool__(self) -> bool:
        return self != 0

    def _no_number(self) -> Any:
        raise Unsolvable

    __int__ = __float__ = __index__ = _no_number

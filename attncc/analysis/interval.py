"""Intervals over any `Numbers`: what they mean, and how they widen.

- An interval is closed; lo and hi of a Bool are what must hold and what may hold.
- `nan` says that a value may be NaN or that nothing is known of it; no proof is drawn from such a value.
- A proof needs a comparison of bounds that is true, none is drawn from one that is false, so bounds may be NaN.
- Bounds of Floats move outward by more than a float32 kernel rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.numbers import INF, Numbers, Value
from attncc.ir import Scalar

#: Four units in the last place of float32, relative; and its smallest normal number, which devices may flush to 0.
ROUNDING: Final = (2.0**-21, 2.0**-126)
#: Below the largest float32.
FLOAT32_LARGEST: Final = 3.3e38
#: Integers are exact in float32 up to here.
FLOAT32_EXACT: Final = 2**24


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers from lo to hi, both included. `nan`: the value may be NaN, or nothing is known of it."""

    lo: Any
    hi: Any
    nan: Any = False


UNKNOWN: Final = Interval(-INF, INF, True)
ANY_BOOL: Final = Interval(False, True)
ANY_INDEX: Final = Interval(-INF, INF)


def point(value: Value) -> Interval:
    """The interval of one value."""
    return Interval(value, value)


def unknown(scalar: Scalar) -> Interval:
    """The interval of a value of which nothing is known."""
    return {Scalar.BOOL: ANY_BOOL, Scalar.INDEX: ANY_INDEX, Scalar.FLOAT: UNKNOWN}[scalar]


def union(n: Numbers, a: Interval, b: Interval) -> Interval:
    """The smallest interval that holds both."""
    return Interval(n.min(a.lo, b.lo), n.max(a.hi, b.hi), n.or_(a.nan, b.nan))


def outward(n: Numbers, interval: Interval, error: tuple[float, float] = ROUNDING) -> Interval:
    """The interval widened by an error relative to its bounds plus an absolute one."""

    def moved(bound: Value, sign: int) -> Value:
        if isinstance(bound, float) and abs(bound) == INF:
            return bound
        step = n.add(n.mul(n.max(bound, n.neg(bound)), n.const(error[0]), False), n.const(error[1]))
        wide = n.add(bound, n.neg(step) if sign < 0 else step)
        # a float32 beyond the largest one is infinite
        beyond = n.lt(wide, n.const(-FLOAT32_LARGEST)) if sign < 0 else n.lt(n.const(FLOAT32_LARGEST), wide)
        return n.where(beyond, n.const(sign * INF), wide)

    return Interval(moved(interval.lo, -1), moved(interval.hi, 1), interval.nan)


def corners(n: Numbers, a: Interval, b: Interval, function: Callable[[Value, Value], Value]) -> tuple[Value, Value]:
    """The least and the largest result at the corners of a and b, for functions monotone in each operand."""
    left = (a.lo,) if a.lo is a.hi else (a.lo, a.hi)
    right = (b.lo,) if b.lo is b.hi else (b.lo, b.hi)
    results = [function(x, y) for x in left for y in right]
    lo = hi = results[0]
    for result in results[1:]:
        lo, hi = n.min(lo, result), n.max(hi, result)
    return lo, hi


def multiply(n: Numbers, a: Interval, b: Interval) -> Interval:
    """The product of two Index intervals."""
    lo, hi = corners(n, a, b, lambda x, y: n.mul(x, y, True))
    return Interval(lo, hi, n.or_(a.nan, b.nan))


def scaled(n: Numbers, a: Interval, factor: int) -> Interval:
    """An Index interval times a number."""
    by = n.const(factor)
    lo, hi = n.mul(a.lo, by, True), n.mul(a.hi, by, True)
    return Interval(lo, hi, a.nan) if factor >= 0 else Interval(hi, lo, a.nan)

"""The numbers that interval rules compute with: Python's, arrays of torch or numpy, or expressions.

The rules of `attncc.analysis.interval` are written once over the algebra `Numbers`. Bounds of an Index are exact; an
unknown bound is minus or plus infinity, or NaN: every proof needs a comparison of bounds that is true.
"""

from __future__ import annotations

import math
import operator
from types import ModuleType
from typing import Any, Final, Protocol

from attncc.ir import Op
from attncc.ir.evaluate import EVALUATE, divide, maximum, minimum

#: A Python number, an array or an `Expr`, as the algebra at hand has it.
Value = Any

INF: Final = math.inf
#: Integers of float64 are exact up to here; arrays of bounds are float64.
EXACT: Final = 2.0**53


class Numbers(Protocol):
    """What the interval rules need of numbers. Truth values are Bools of the same world."""

    def const(self, value: bool | int | float) -> Value: ...
    def add(self, a: Value, b: Value) -> Value: ...
    def neg(self, a: Value) -> Value: ...
    def mul(self, a: Value, b: Value, exact: bool) -> Value:
        """The product; with `exact` 0 times an unknown bound is 0, otherwise IEEE's NaN."""

    def divide(self, a: Value, b: Value) -> Value: ...
    def floordiv(self, a: Value, b: Value) -> Value: ...
    def mod(self, a: Value, b: Value) -> Value: ...
    def power(self, a: Value, exponent: int) -> Value: ...
    def min(self, a: Value, b: Value) -> Value: ...
    def max(self, a: Value, b: Value) -> Value: ...
    def le(self, a: Value, b: Value) -> Value: ...
    def lt(self, a: Value, b: Value) -> Value: ...
    def and_(self, a: Value, b: Value) -> Value: ...
    def or_(self, a: Value, b: Value) -> Value: ...
    def not_(self, a: Value) -> Value: ...
    def where(self, condition: Value, a: Value, b: Value) -> Value: ...
    def function(self, op: Op, a: Value) -> Value: ...
    def as_float(self, a: Value) -> Value: ...
    def as_index(self, a: Value) -> Value: ...
    def known(self, truth: Value) -> bool | None:
        """The truth value where it is the same for all elements and known now."""


class PythonNumbers:
    """Python's own numbers: ints for an Index (infinite floats where unknown), floats for a Float."""

    def const(self, value: bool | int | float) -> Value:
        return value

    def add(self, a: Value, b: Value) -> Value:
        return a + b

    def neg(self, a: Value) -> Value:
        return -a

    def mul(self, a: Value, b: Value, exact: bool) -> Value:
        return 0 if exact and (a == 0 or b == 0) else a * b

    def divide(self, a: Value, b: Value) -> Value:
        return divide(float(a), float(b))

    def floordiv(self, a: Value, b: Value) -> Value:
        """Floor division of Index bounds, the divisor not 0; infinities as limits."""
        if isinstance(a, float) and math.isinf(a):
            return a if b > 0 else -a
        if isinstance(b, float) and math.isinf(b):
            return -1 if (a < 0) != (b < 0) and a != 0 else 0
        return a // b

    def mod(self, a: Value, b: Value) -> Value:
        if isinstance(a, float) and math.isinf(a):
            return 0
        return a % b

    def power(self, a: Value, exponent: int) -> Value:
        return a**exponent if isinstance(a, int) else EVALUATE[Op.POW](a, float(exponent))

    def min(self, a: Value, b: Value) -> Value:
        return minimum(a, b)

    def max(self, a: Value, b: Value) -> Value:
        return maximum(a, b)

    def le(self, a: Value, b: Value) -> Value:
        return a <= b

    def lt(self, a: Value, b: Value) -> Value:
        return a < b

    def and_(self, a: Value, b: Value) -> Value:
        return bool(a and b)

    def or_(self, a: Value, b: Value) -> Value:
        return bool(a or b)

    def not_(self, a: Value) -> Value:
        return not a

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        return a if condition else b

    def function(self, op: Op, a: Value) -> Value:
        return EVALUATE[op](float(a))

    def as_float(self, a: Value) -> Value:
        try:
            return float(a)
        except OverflowError:
            return INF if a > 0 else -INF

    def as_index(self, a: Value) -> Value:
        return a if math.isinf(a) or a != a else math.trunc(a)

    def known(self, truth: Value) -> bool | None:
        return bool(truth)


class ArrayNumbers(PythonNumbers):
    """Arrays of float64, computed elementwise by `module` (torch or numpy, handed in: nothing here imports them).

    Index bounds are exact up to 2**53 and unknown (NaN) beyond. Python numbers mix with arrays.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def _is_plain(self, *values: Value) -> bool:
        return all(isinstance(v, bool | int | float) for v in values)

    def _array(self, value: Value, like: Value) -> Value:
        if not isinstance(value, bool | int | float):
            return value
        full = self.module.full_like(like, 0) == 0  # an array of True
        return full if value is True else ~full if value is False else self.module.where(full, float(value), 0.0)

    def _pair(self, a: Value, b: Value) -> tuple[Value, Value]:
        like = b if self._is_plain(a) else a
        return self._array(a, like), self._array(b, like)

    def add(self, a: Value, b: Value) -> Value:
        return a + b if self._is_plain(a, b) else self._saturated(a + b)

    def _saturated(self, a: Value) -> Value:
        return self.module.where((abs(a) > EXACT) & (abs(a) != INF), math.nan, a)

    def mul(self, a: Value, b: Value, exact: bool) -> Value:
        if self._is_plain(a, b):
            return super().mul(a, b, exact)
        a, b = self._pair(a, b)
        return self.module.where((a == 0) | (b == 0), 0.0, self._saturated(a * b)) if exact else a * b

    def divide(self, a: Value, b: Value) -> Value:
        return super().divide(a, b) if self._is_plain(a, b) else a / b

    def floordiv(self, a: Value, b: Value) -> Value:
        if self._is_plain(a, b):
            return super().floordiv(a, b)
        a, b = self._pair(a, b)
        quotient = self.module.floor(a / b)
        rest = a - quotient * b  # a / b rounds: the quotient may be one step off
        quotient = self.module.where(self.module.where(b > 0, rest < 0, rest > 0), quotient - 1.0, quotient)
        quotient = self.module.where(abs(rest) >= abs(b), quotient + 1.0, quotient)
        return self.module.where(abs(a) == INF, self.module.where(b > 0, a, -a), quotient)

    def mod(self, a: Value, b: Value) -> Value:
        if self._is_plain(a, b):
            return super().mod(a, b)
        a, b = self._pair(a, b)
        return self.module.where(abs(a) == INF, 0.0, a - b * self.floordiv(self.module.where(abs(a) == INF, 0.0, a), b))

    def power(self, a: Value, exponent: int) -> Value:
        return a**exponent if self._is_plain(a) else self._saturated(a**exponent)

    def min(self, a: Value, b: Value) -> Value:
        return super().min(a, b) if self._is_plain(a, b) else self.module.minimum(*self._pair(a, b))

    def max(self, a: Value, b: Value) -> Value:
        return super().max(a, b) if self._is_plain(a, b) else self.module.maximum(*self._pair(a, b))

    def and_(self, a: Value, b: Value) -> Value:
        return super().and_(a, b) if self._is_plain(a, b) else operator.and_(*self._pair(a, b))

    def or_(self, a: Value, b: Value) -> Value:
        return super().or_(a, b) if self._is_plain(a, b) else operator.or_(*self._pair(a, b))

    def not_(self, a: Value) -> Value:
        return super().not_(a) if self._is_plain(a) else ~a

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        if self._is_plain(condition):
            return a if condition else b
        return self.module.where(condition, self._array(a, condition * 1.0), self._array(b, condition * 1.0))

    def function(self, op: Op, a: Value) -> Value:
        if self._is_plain(a):
            return super().function(op, a)
        name = {Op.ROUND: "round", Op.ATAN: "arctan"}.get(op, op.value)
        return getattr(self.module, name)(a)

    def as_float(self, a: Value) -> Value:
        return super().as_float(a) if self._is_plain(a) else a

    def as_index(self, a: Value) -> Value:
        return super().as_index(a) if self._is_plain(a) else self.module.trunc(a)

    def known(self, truth: Value) -> bool | None:
        return truth if isinstance(truth, bool) else None


PYTHON: Final = PythonNumbers()

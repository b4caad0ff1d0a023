"""Intervals, and the one rule of each operation that carries them from operands to results.

`TRANSFER` is written over `Numbers`, so that the same rules bound values on the host, in arrays over many tiles, and
symbolically in a kernel's prologue. They are sound by construction:

- an interval is closed; lo and hi of a Bool are what must hold and what may hold;
- `nan` says that a value may be NaN or that nothing is known of it; no proof is drawn from such a value;
- a proof needs a comparison of bounds that is true, none is drawn from one that is false, so bounds may be NaN;
- bounds of Floats move outward by more than a float32 kernel rounds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.numbers import INF, Numbers, Value
from attncc.ir import Expr, Op, Scalar

#: Four units in the last place of float32, relative; and its smallest normal number, which devices may flush to 0.
ROUNDING: Final = (2.0**-21, 2.0**-126)
#: Functions on devices are approximations: their relative and absolute error is below these (tanh.approx: 2**-11).
FUNCTION_ERROR: Final = (2.0**-10, 2.0**-20)
#: Relative and absolute error of rounding to a narrow dtype, and the size beyond which the result may be infinite.
NARROW_ERROR: Final = {"bfloat16": (2.0**-7, 2.0**-120, 3.3e38), "float16": (2.0**-9, 2.0**-23, 65000.0)}
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


Rule = Callable[[Numbers, Expr, Sequence[Interval]], Interval]
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


def _nan(n: Numbers, args: Sequence[Interval]) -> Value:
    result: Value = False
    for arg in args:
        result = n.or_(result, arg.nan)
    return result


def _arithmetic(n: Numbers, expr: Expr, lo: Value, hi: Value, nan: Value) -> Interval:
    """The result of +, -, *, /: a Float rounds outward, and may be NaN where both bounds became infinite or NaN."""
    if expr.scalar is not Scalar.FLOAT:
        return Interval(lo, hi, nan)
    lost = n.not_(n.or_(n.lt(-INF, lo), n.lt(hi, INF)))
    return outward(n, Interval(lo, hi, n.or_(nan, lost)))


def _add(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return _arithmetic(n, expr, n.add(a.lo, b.lo), n.add(a.hi, b.hi), _nan(n, args))


def _sub(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return _arithmetic(n, expr, n.add(a.lo, n.neg(b.hi)), n.add(a.hi, n.neg(b.lo)), _nan(n, args))


def _neg(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    return Interval(n.neg(a.hi), n.neg(a.lo), a.nan)


def _corners(n: Numbers, a: Interval, b: Interval, function: Callable[[Value, Value], Value]) -> tuple[Value, Value]:
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
    lo, hi = _corners(n, a, b, lambda x, y: n.mul(x, y, True))
    return Interval(lo, hi, n.or_(a.nan, b.nan))


def scaled(n: Numbers, a: Interval, factor: int) -> Interval:
    """An Index interval times a number."""
    by = n.const(factor)
    lo, hi = n.mul(a.lo, by, True), n.mul(a.hi, by, True)
    return Interval(lo, hi, a.nan) if factor >= 0 else Interval(hi, lo, a.nan)


def _mul(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    lo, hi = _corners(n, args[0], args[1], lambda x, y: n.mul(x, y, expr.scalar is Scalar.INDEX))
    return _arithmetic(n, expr, lo, hi, _nan(n, args))


def _divisor(n: Numbers, b: Interval, one: Value) -> tuple[Interval, Value]:
    """The divisor's interval, made positive unless it is known to be negative, and whether that changed it."""
    zero = n.const(0)
    if n.known(n.lt(b.hi, zero)) is True:
        return b, False
    positive = n.lt(zero, b.lo)
    if n.known(positive) is True:
        return b, False
    lo, hi = (n.where(positive, bound, one) if isinstance(one, float) else n.max(bound, one) for bound in (b.lo, b.hi))
    return (point(lo) if b.lo is b.hi else Interval(lo, hi)), n.not_(positive)


def _div(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    divisor, pole = _divisor(n, args[1], 1.0)
    lo, hi = _corners(n, args[0], divisor, n.divide)
    return _arithmetic(n, expr, lo, hi, n.or_(pole, _nan(n, args)))


def _floordiv(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    divisor, pole = _divisor(n, args[1], 1 if expr.scalar is Scalar.INDEX else 1.0)
    nan = n.or_(pole, _nan(n, args))
    if expr.scalar is Scalar.INDEX:
        return Interval(*_corners(n, args[0], divisor, n.floordiv), nan)
    infinite = n.not_(n.and_(n.lt(-INF, args[0].lo), n.lt(args[0].hi, INF)))  # inf // x is NaN
    quotient = _arithmetic(n, expr, *_corners(n, args[0], divisor, n.divide), n.or_(nan, infinite))
    return Interval(n.function(Op.FLOOR, quotient.lo), n.function(Op.FLOOR, quotient.hi), quotient.nan)


def _mod(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    divisor, pole = _divisor(n, args[1], 1 if expr.scalar is Scalar.INDEX else 1.0)
    nan, zero = n.or_(pole, _nan(n, args)), n.const(0)
    if expr.scalar is Scalar.FLOAT:
        return outward(n, Interval(n.min(zero, divisor.lo), n.max(zero, divisor.hi), True))
    lo, hi = n.min(zero, n.add(divisor.lo, n.const(1))), n.max(zero, n.add(divisor.hi, n.const(-1)))
    if divisor.lo is not divisor.hi:
        return Interval(lo, hi, nan)
    a, d = args[0], divisor.lo
    # between two multiples of the divisor the remainder grows with the dividend
    first, last = n.floordiv(a.lo, d), n.floordiv(a.hi, d)
    same = n.and_(n.le(first, last), n.le(last, first))
    return Interval(n.where(same, n.mod(a.lo, d), lo), n.where(same, n.mod(a.hi, d), hi), nan)


def _pow(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, exponent = args[0], expr.args[1]
    if exponent.op is not Op.CONST or not float(exponent.value or 0).is_integer() or float(exponent.value or 0) < 0:
        return UNKNOWN
    times = int(exponent.value or 0)
    if times == 0:
        one = n.const(1 if expr.scalar is Scalar.INDEX else 1.0)
        return Interval(one, one, a.nan)
    base = a if times % 2 else _abs(n, expr, args)
    powered = Interval(n.power(base.lo, times), n.power(base.hi, times), a.nan)
    return powered if expr.scalar is Scalar.INDEX else outward(n, powered, FUNCTION_ERROR)


def _abs(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a = args[0]
    zero = n.const(0 if expr.scalar is Scalar.INDEX else 0.0)
    return Interval(n.max(n.max(a.lo, n.neg(a.hi)), zero), n.max(a.hi, n.neg(a.lo)), a.nan)


def _min(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return Interval(n.min(a.lo, b.lo), n.min(a.hi, b.hi), _nan(n, args))


def _max(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return Interval(n.max(a.lo, b.lo), n.max(a.hi, b.hi), _nan(n, args))


def _bit_and(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    zero = n.const(0)
    nonnegative = n.and_(n.le(zero, a.lo), n.le(zero, b.lo))
    return Interval(zero, n.min(a.hi, b.hi), n.or_(n.not_(nonnegative), _nan(n, args)))


def _bit_or(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    zero = n.const(0)
    nonnegative = n.and_(n.le(zero, a.lo), n.le(zero, b.lo))  # then x | y <= x + y, and x ^ y <= x | y
    return Interval(zero, n.add(a.hi, b.hi), n.or_(n.not_(nonnegative), _nan(n, args)))


def _shift(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, bits = args[0], expr.args[1].value
    if expr.args[1].op is not Op.CONST or not isinstance(bits, int):
        return UNKNOWN
    factor = n.const(2**bits)
    if expr.op is Op.SHIFT_LEFT:
        return Interval(n.mul(a.lo, factor, True), n.mul(a.hi, factor, True), a.nan)
    return Interval(n.floordiv(a.lo, factor), n.floordiv(a.hi, factor), a.nan)


def _increasing(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    made = Interval(n.function(expr.op, a.lo), n.function(expr.op, a.hi), a.nan)
    return outward(n, made, FUNCTION_ERROR)


def _from(least: float) -> Rule:
    """An increasing function that is NaN below `least`."""

    def rule(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
        (a,) = args
        start, outside = n.const(least), n.not_(n.le(least, a.lo))
        lo, hi = n.max(a.lo, start), n.max(a.hi, start)
        made = Interval(n.function(expr.op, lo), n.function(expr.op, hi), n.or_(a.nan, outside))
        return outward(n, made, FUNCTION_ERROR)

    return rule


def _rsqrt(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    zero, outside = n.const(0.0), n.not_(n.le(0.0, a.lo))
    lo, hi = n.max(a.lo, zero), n.max(a.hi, zero)
    made = Interval(n.function(expr.op, hi), n.function(expr.op, lo), n.or_(a.nan, outside))
    return outward(n, made, FUNCTION_ERROR)


def _wave(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    infinite = n.not_(n.and_(n.lt(-INF, a.lo), n.lt(a.hi, INF)))
    return outward(n, Interval(n.const(-1.0), n.const(1.0), n.or_(a.nan, infinite)), FUNCTION_ERROR)


def _rounding(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    return Interval(n.function(expr.op, a.lo), n.function(expr.op, a.hi), a.nan)


def _truth(n: Numbers, must: Value, may: Value, args: Sequence[Interval]) -> Interval:
    """A comparison's interval: nothing is proven where an operand may be NaN."""
    nan = _nan(n, args)
    return Interval(n.and_(must, n.not_(nan)), n.or_(may, nan))


def _lt(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return _truth(n, n.lt(a.hi, b.lo), n.not_(n.le(b.hi, a.lo)), args)


def _le(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return _truth(n, n.le(a.hi, b.lo), n.not_(n.lt(b.hi, a.lo)), args)


def _eq(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    if expr.args[0].scalar is Scalar.BOOL:
        return _not(n, expr, (_xor(n, expr, args),))
    must = n.and_(n.le(a.hi, b.lo), n.le(b.hi, a.lo))
    return _truth(n, must, n.and_(n.not_(n.lt(a.hi, b.lo)), n.not_(n.lt(b.hi, a.lo))), args)


def _and(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return Interval(n.and_(a.lo, b.lo), n.and_(a.hi, b.hi))


def _or(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    return Interval(n.or_(a.lo, b.lo), n.or_(a.hi, b.hi))


def _xor(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    a, b = args
    must = n.or_(n.and_(a.lo, n.not_(b.hi)), n.and_(n.not_(a.hi), b.lo))
    both = n.or_(n.and_(a.lo, b.lo), n.and_(n.not_(a.hi), n.not_(b.hi)))
    return Interval(must, n.not_(both))


def _not(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    return Interval(n.not_(a.hi), n.not_(a.lo))


def _where(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    c, a, b = args
    if expr.scalar is Scalar.BOOL:
        must = n.or_(n.or_(n.and_(c.lo, a.lo), n.and_(n.not_(c.hi), b.lo)), n.and_(a.lo, b.lo))
        return Interval(must, n.or_(n.and_(c.hi, a.hi), n.and_(n.not_(c.lo), b.hi)))
    both = union(n, a, b)
    parts = ((a.lo, b.lo, both.lo), (a.hi, b.hi, both.hi), (a.nan, b.nan, both.nan))
    return Interval(*(n.where(c.lo, x, n.where(c.hi, z, y)) for x, y, z in parts))


def _cast(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    (a,) = args
    source = expr.args[0].scalar
    if source is Scalar.BOOL:
        one, zero = (n.const(1.0), n.const(0.0)) if expr.scalar is Scalar.FLOAT else (n.const(1), n.const(0))
        return Interval(n.where(a.lo, one, zero), n.where(a.hi, one, zero))
    if expr.scalar is Scalar.INDEX:
        return Interval(n.as_index(a.lo), n.as_index(a.hi), a.nan)
    # beyond 2**24 an int is rounded, by less than its distance from there
    exact, twice = n.const(FLOAT32_EXACT), n.const(2)
    lo = n.min(n.min(a.lo, n.add(n.mul(a.lo, twice, True), exact)), exact)
    hi = n.max(n.max(a.hi, n.add(n.mul(a.hi, twice, True), n.neg(exact))), n.neg(exact))
    return Interval(n.as_float(lo), n.as_float(hi), a.nan)


def _narrow(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    relative, absolute, largest = NARROW_ERROR[str(expr.value)]
    made = outward(n, args[0], (relative, absolute))
    lo = n.where(n.lt(made.lo, n.const(-largest)), n.const(-INF), made.lo)
    return Interval(lo, n.where(n.lt(n.const(largest), made.hi), n.const(INF), made.hi), made.nan)


def _const(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    value = expr.value
    assert isinstance(value, bool | int | float)
    if isinstance(value, float) and value != value:
        return UNKNOWN
    made = point(n.const(value))
    return outward(n, made) if isinstance(value, float) and not _is_float32(value) else made


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False


def _leaf(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    return unknown(expr.scalar)


def _flipped(rule: Rule) -> Rule:
    return lambda n, expr, args: rule(n, expr, (args[1], args[0]))


TRANSFER: Final[dict[Op, Rule]] = {
    Op.CONST: _const,
    Op.INPUT: _leaf,
    Op.PARAM: _leaf,
    Op.LOAD: _leaf,
    Op.ADD: _add,
    Op.SUB: _sub,
    Op.MUL: _mul,
    Op.DIV: _div,
    Op.FLOORDIV: _floordiv,
    Op.MOD: _mod,
    Op.POW: _pow,
    Op.NEG: _neg,
    Op.ABS: _abs,
    Op.MIN: _min,
    Op.MAX: _max,
    Op.BIT_AND: _bit_and,
    Op.BIT_OR: _bit_or,
    Op.BIT_XOR: _bit_or,
    Op.SHIFT_LEFT: _shift,
    Op.SHIFT_RIGHT: _shift,
    Op.EXP: _increasing,
    Op.EXP2: _increasing,
    Op.EXPM1: _increasing,
    Op.LOG: _from(0.0),
    Op.LOG2: _from(0.0),
    Op.LOG1P: _from(-1.0),
    Op.SQRT: _from(0.0),
    Op.RSQRT: _rsqrt,
    Op.TANH: _increasing,
    Op.SIGMOID: _increasing,
    Op.SIN: _wave,
    Op.COS: _wave,
    Op.ATAN: _increasing,
    Op.ERF: _increasing,
    Op.FLOOR: _rounding,
    Op.CEIL: _rounding,
    Op.ROUND: _rounding,
    Op.TRUNC: _rounding,
    Op.LT: _lt,
    Op.LE: _le,
    Op.GT: _flipped(_lt),
    Op.GE: _flipped(_le),
    Op.EQ: _eq,
    Op.NE: lambda n, expr, args: _not(n, expr, (_eq(n, expr, args),)),
    Op.AND: _and,
    Op.OR: _or,
    Op.XOR: _xor,
    Op.NOT: _not,
    Op.WHERE: _where,
    Op.CAST: _cast,
    Op.NARROW: _narrow,
}

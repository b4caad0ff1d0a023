"""The one rule of each operation that carries intervals from operands to results.

`TRANSFER` is written over `Numbers`, so that the same rules bound values on the host, in arrays over many tiles, and
symbolically in a kernel's prologue. They are sound by construction, as `attncc.analysis.interval` says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from attncc.analysis.interval import (
    FLOAT32_EXACT,
    UNKNOWN,
    Interval,
    corners,
    outward,
    point,
    union,
    unknown,
)
from attncc.analysis.numbers import INF, Numbers, Value
from attncc.ir import Expr, Op, Scalar

#: Functions on devices are approximations: their relative and absolute error is below these (tanh.approx: 2**-11).
FUNCTION_ERROR: Final = (2.0**-10, 2.0**-20)
#: Relative and absolute error of rounding to a narrow dtype, and the size beyond which the result may be infinite.
NARROW_ERROR: Final = {"bfloat16": (2.0**-7, 2.0**-120, 3.3e38), "float16": (2.0**-9, 2.0**-23, 65000.0)}

Rule = Callable[[Numbers, Expr, Sequence[Interval]], Interval]


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


def _mul(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    for factor, number, other in zip(expr.args, args, reversed(args), strict=True):
        if factor.op is Op.CONST and number.lo is number.hi and isinstance(factor.value, int | float):
            lo, hi = (n.mul(end, number.lo, expr.scalar is Scalar.INDEX) for end in (other.lo, other.hi))
            lo, hi = (lo, hi) if factor.value >= 0 else (hi, lo)
            return _arithmetic(n, expr, lo, hi, _nan(n, args))
    lo, hi = corners(n, args[0], args[1], lambda x, y: n.mul(x, y, expr.scalar is Scalar.INDEX))
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
    lo, hi = corners(n, args[0], divisor, n.divide)
    return _arithmetic(n, expr, lo, hi, n.or_(pole, _nan(n, args)))


def _floordiv(n: Numbers, expr: Expr, args: Sequence[Interval]) -> Interval:
    divisor, pole = _divisor(n, args[1], 1 if expr.scalar is Scalar.INDEX else 1.0)
    nan = n.or_(pole, _nan(n, args))
    if expr.scalar is Scalar.INDEX:
        return Interval(*corners(n, args[0], divisor, n.floordiv), nan)
    infinite = n.not_(n.and_(n.lt(-INF, args[0].lo), n.lt(args[0].hi, INF)))  # inf // x is NaN
    quotient = _arithmetic(n, expr, *corners(n, args[0], divisor, n.divide), n.or_(nan, infinite))
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

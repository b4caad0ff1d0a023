"""The algebra of Float expressions that holds for every float: NaN, infinities and zeros of both signs included.

Sums and products are never regrouped, `x * 0` is not 0 and `x + 0` is not x. Each rule also keeps the derivative, ties
of a minimum or maximum included.
"""

from __future__ import annotations

import math
from typing import Final

from attncc.ir import Expr, Op, Scalar, apply, cast, const
from attncc.passes.rules import FLOAT, absolute, add, is_const, mul, neg, number, rules_of, sub

UNIT, MINUS_UNIT, NEGATIVE_ZERO, POSITIVE_ZERO = const(1.0), const(-1.0), const(-0.0), const(0.0)
ROUNDINGS: Final = (Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC)
#: 1 / c is exact, and a normal float32, for powers of two up to this one.
MAX_EXPONENT: Final = 126


def _constant_last(x: Expr, y: Expr, op: Op) -> Expr | None:
    return apply(op, y, x) if is_const(x) and not is_const(y) else None


def _multiply_by_reciprocal(x: Expr, y: Expr) -> Expr | None:
    c = number(y)
    if c is None or not math.isfinite(c) or c == 0:
        return None
    fraction, exponent = math.frexp(c)
    exact = abs(fraction) == 0.5 and abs(exponent - 1) <= MAX_EXPONENT
    return mul(x, const(1 / c)) if exact else None


def _multiply_negated(x: Expr, y: Expr) -> Expr | None:
    if x.op is Op.NEG:
        return mul(x.args[0], neg(y)) if is_const(y) else neg(mul(x.args[0], y))
    return neg(mul(x, y.args[0])) if y.op is Op.NEG else None


def _divide_negated(x: Expr, y: Expr) -> Expr | None:
    if x.op is Op.NEG:
        return neg(apply(Op.DIV, x.args[0], y))
    return neg(apply(Op.DIV, x, y.args[0])) if y.op is Op.NEG else None


def _negate_scaled(x: Expr) -> Expr | None:
    return apply(x.op, x.args[0], neg(x.args[1])) if x.op in (Op.MUL, Op.DIV) and is_const(x.args[1]) else None


def _nested_extreme(x: Expr, y: Expr, op: Op) -> Expr | None:
    # Where c is d the derivative at the tie differs: 1/4 on the left, 1/2 on the right.
    if x.op is not op or not is_const(y) or not is_const(x.args[1]) or x.args[1].value == y.value:
        return None
    return apply(op, x.args[0], apply(op, x.args[1], y))


def _is_rounded(x: Expr) -> bool:
    return x.op in ROUNDINGS or (x.op is Op.CAST and x.scalar is Scalar.FLOAT)


def _truncate_twice(expr: Expr) -> Expr | None:
    inner = expr.args[0]
    return cast(inner.args[0], Scalar.INDEX) if inner.op is Op.TRUNC else None


def _widen_twice(expr: Expr) -> Expr | None:
    inner = expr.args[0]
    return cast(inner.args[0], Scalar.FLOAT) if inner.op is Op.CAST and inner.args[0].scalar is Scalar.BOOL else None


def _narrow_once(expr: Expr) -> Expr | None:
    inner = expr.args[0]
    return inner if inner.op is Op.NARROW and inner.value == expr.value else None


FLOAT_RULES: Final = (
    *rules_of(
        FLOAT,
        ("c + x -> x + c", Op.ADD, lambda x, y: _constant_last(x, y, Op.ADD)),
        ("c * x -> x * c", Op.MUL, lambda x, y: _constant_last(x, y, Op.MUL)),
        ("min(c, x) -> min(x, c)", Op.MIN, lambda x, y: _constant_last(x, y, Op.MIN)),
        ("max(c, x) -> max(x, c)", Op.MAX, lambda x, y: _constant_last(x, y, Op.MAX)),
        ("x + -0.0 -> x", Op.ADD, lambda x, y: x if y is NEGATIVE_ZERO else None),
        ("x - 0.0 -> x", Op.SUB, lambda x, y: x if y is POSITIVE_ZERO else None),
        ("-0.0 - x -> -x", Op.SUB, lambda x, y: neg(y) if x is NEGATIVE_ZERO else None),
        ("x + -y -> x - y", Op.ADD, lambda x, y: sub(x, y.args[0]) if y.op is Op.NEG else None),
        ("-x + y -> y - x", Op.ADD, lambda x, y: sub(y, x.args[0]) if x.op is Op.NEG else None),
        ("x - -y -> x + y", Op.SUB, lambda x, y: add(x, y.args[0]) if y.op is Op.NEG else None),
        ("x * 1 -> x", (Op.MUL, Op.DIV), lambda x, y: x if y is UNIT else None),
        ("x * -1 -> -x", (Op.MUL, Op.DIV), lambda x, y: neg(x) if y is MINUS_UNIT else None),
        ("x / 2 ** c -> x * 2 ** -c", Op.DIV, _multiply_by_reciprocal),
        ("-x * y -> -(x * y)", Op.MUL, _multiply_negated),
        ("-x / y -> -(x / y)", Op.DIV, _divide_negated),
        ("-(x * c) -> x * -c", Op.NEG, _negate_scaled),
        ("--x -> x", Op.NEG, lambda x: x.args[0] if x.op is Op.NEG else None),
        ("x ** 0 -> 1", Op.POW, lambda x, y: UNIT if number(y) == 0 else None),
        ("x ** 1 -> x", Op.POW, lambda x, y: x if y is UNIT else None),
        ("x ** 2 -> x * x", Op.POW, lambda x, y: mul(x, x) if number(y) == 2 else None),
        ("x ** -1 -> 1 / x", Op.POW, lambda x, y: apply(Op.DIV, UNIT, x) if y is MINUS_UNIT else None),
        ("||x|| -> |x|", Op.ABS, lambda x: x if x.op is Op.ABS else None),
        ("|-x| -> |x|", Op.ABS, lambda x: absolute(x.args[0]) if x.op is Op.NEG else None),
        ("min(x, x) -> x", (Op.MIN, Op.MAX), lambda x, y: x if x is y else None),
        ("min(min(x, c), d) -> min(x, min(c, d))", Op.MIN, lambda x, y: _nested_extreme(x, y, Op.MIN)),
        ("max(max(x, c), d) -> max(x, max(c, d))", Op.MAX, lambda x, y: _nested_extreme(x, y, Op.MAX)),
        ("round(floor(x)) -> floor(x)", ROUNDINGS, lambda x: x if _is_rounded(x) else None),
        ("int(trunc(x)) -> int(x)", Op.CAST, _truncate_twice),
    ),
    *rules_of(Scalar.INDEX, ("float(int(p)) -> float(p)", Op.CAST, _widen_twice)),
    *rules_of(FLOAT, ("float16(float16(x)) -> float16(x)", Op.NARROW, _narrow_once)),
)

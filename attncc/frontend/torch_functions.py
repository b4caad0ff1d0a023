"""What torch's arithmetic, comparisons, choices and roundings mean.

Where torch's derivative at a tie or its answer to NaN tells two formulas apart, the one that agrees is used.
"""

from __future__ import annotations

import math

from attncc.errors import LanguageError
from attncc.frontend.algebra import (
    Number,
    abs_,
    add,
    and_,
    div,
    eq,
    float_,
    floordiv,
    gt,
    le,
    lt,
    max_,
    means,
    means_binary,
    means_reflected,
    means_unary,
    min_,
    mod,
    mul,
    ne,
    neg,
    not_,
    or_,
    pow_,
    sqrt,
    sub,
    where,
)
from attncc.ir import Expr, Op, Scalar, apply, cast, const, functions

for _op, *_names in (
    (Op.EXP, "exp"),
    (Op.EXP2, "exp2", "special_exp2"),
    (Op.EXPM1, "expm1", "special_expm1"),
    (Op.LOG, "log"),
    (Op.LOG2, "log2"),
    (Op.LOG1P, "log1p", "special_log1p"),
    (Op.SQRT, "sqrt"),
    (Op.RSQRT, "rsqrt"),
    (Op.TANH, "tanh"),
    (Op.SIGMOID, "sigmoid", "special_expit"),
    (Op.SIN, "sin"),
    (Op.COS, "cos"),
    (Op.ATAN, "atan", "arctan"),
    (Op.ERF, "erf", "special_erf"),
    (Op.FLOOR, "floor"),
    (Op.CEIL, "ceil"),
    (Op.TRUNC, "trunc", "fix"),
    (Op.NEG, "neg", "negative", "__neg__"),
    (Op.ABS, "abs", "absolute", "__abs__"),
    (Op.NOT, "__invert__", "bitwise_not"),
):
    means_unary(_op, *_names)
for _op, *_names in (
    (Op.MUL, "mul", "multiply", "__mul__"),
    (Op.FLOORDIV, "floor_divide", "__floordiv__"),
    (Op.MOD, "remainder", "__mod__"),
    (Op.MIN, "minimum"),
    (Op.MAX, "maximum"),
    (Op.LT, "lt", "less", "__lt__"),
    (Op.LE, "le", "less_equal", "__le__"),
    (Op.GT, "gt", "greater", "__gt__"),
    (Op.GE, "ge", "greater_equal", "__ge__"),
    (Op.EQ, "eq", "__eq__"),
    (Op.NE, "ne", "not_equal", "__ne__"),
    (Op.AND, "bitwise_and", "__and__", "__rand__"),
    (Op.OR, "bitwise_or", "__or__", "__ror__"),
    (Op.XOR, "bitwise_xor", "__xor__", "__rxor__"),
    (Op.SHIFT_LEFT, "bitwise_left_shift", "__lshift__"),
    (Op.SHIFT_RIGHT, "bitwise_right_shift", "__rshift__"),
):
    means_binary(_op, *_names)
for _op, *_names in (
    (Op.ADD, "__radd__"),
    (Op.MUL, "__rmul__"),
    (Op.DIV, "__rdiv__", "__rtruediv__"),
    (Op.FLOORDIV, "__rfloordiv__"),
    (Op.MOD, "__rmod__"),
    (Op.POW, "__rpow__"),
    (Op.SHIFT_LEFT, "__rlshift__"),
    (Op.SHIFT_RIGHT, "__rrshift__"),
    (Op.SUB, "__rsub__"),
):
    means_reflected(_op, *_names)


# Arithmetic.


@means("add", "__add__")
def _added(input: Expr, other: Expr, *, alpha: Number = 1) -> Expr:
    return add(input, other if alpha == 1 else mul(alpha, other))


@means("sub", "subtract", "__sub__")
def _subtracted(input: Expr, other: Expr, *, alpha: Number = 1) -> Expr:
    return sub(input, other if alpha == 1 else mul(alpha, other))


@means("rsub")
def _subtracted_from(input: Expr, other: Expr, alpha: Number = 1) -> Expr:
    return sub(other, input if alpha == 1 else mul(alpha, input))


@means("div", "divide", "true_divide", "__truediv__", "__div__")
def _divided(input: Expr, other: Expr, *, rounding_mode: str | None = None) -> Expr:
    if rounding_mode is None:
        return div(input, other)
    if rounding_mode == "floor":
        return floordiv(input, other)
    if max(input.scalar, other.scalar) is Scalar.FLOAT:
        return apply(Op.TRUNC, div(input, other))
    whole = floordiv(abs_(input), abs_(other))
    return where(ne(lt(input, 0), lt(other, 0)), neg(whole), whole)


@means("fmod")
def _truncated_remainder(input: Expr, other: Expr) -> Expr:
    rest = mod(abs_(input), abs_(other))
    return where(lt(input, 0), neg(rest), rest)


@means("positive", "__pos__")
def _same(input: Expr) -> Expr:
    return input


@means("square")
def _squared(input: Expr) -> Expr:
    return mul(input, input)


@means("reciprocal")
def _inverted(input: Expr) -> Expr:
    return div(1.0, input)


@means("pow", "__pow__")
def _power(input: Expr, exponent: Expr) -> Expr:
    # torch takes these two as roots, which tell -inf from inf.
    if exponent.op is Op.CONST and exponent.value == 0.5:
        return apply(Op.SQRT, input)
    if exponent.op is Op.CONST and exponent.value == -0.5:
        return apply(Op.RSQRT, input)
    return pow_(input, exponent)


@means("float_power")
def _float_power(input: Expr, exponent: Expr) -> Expr:
    return _power(float_(input), exponent)


@means("lerp")
def _between(input: Expr, end: Expr, weight: Expr) -> Expr:
    # As torch: exact at both ends.
    near = add(input, mul(weight, sub(end, input)))
    far = sub(end, mul(sub(end, input), sub(1.0, weight)))
    return where(lt(abs_(weight), 0.5), near, far)


@means("addcmul")
def _add_product(input: Expr, tensor1: Expr, tensor2: Expr, *, value: Number = 1) -> Expr:
    return add(input, mul(value, mul(tensor1, tensor2)))


@means("addcdiv")
def _add_quotient(input: Expr, tensor1: Expr, tensor2: Expr, *, value: Number = 1) -> Expr:
    return add(input, mul(value, div(tensor1, tensor2)))


@means("hypot")
def _hypotenuse(input: Expr, other: Expr) -> Expr:
    return sqrt(add(mul(input, input), mul(other, other)))


@means("deg2rad")
def _radians(input: Expr) -> Expr:
    return mul(input, math.pi / 180)


@means("rad2deg")
def _degrees(input: Expr) -> Expr:
    return mul(input, 180 / math.pi)


# Choices and tests.


@means("where")
def _chosen(condition: Expr, input: Expr, other: Expr) -> Expr:
    return where(condition, input, other)


@means("Tensor.where")
def _kept(input: Expr, condition: Expr, other: Expr) -> Expr:
    return where(condition, input, other)


@means("masked_fill")
def _filled(input: Expr, mask: Expr, value: Expr) -> Expr:
    return where(mask, _like(value, input), input)


def _like(value: Expr, other: Expr) -> Expr:
    return cast(value, other.scalar) if value.op is Op.CONST else value


@means("clamp", "clip")
def _clamped(input: Expr, min: Expr | None = None, max: Expr | None = None) -> Expr:
    if min is None and max is None:
        raise LanguageError("`clamp` needs a bound", hint="give `min=`, `max=` or both")
    held = functions.clamp(input, min, max)
    for bound in (min, max):
        if bound is not None and bound.scalar is Scalar.FLOAT and bound.op is not Op.CONST:
            held = where(ne(bound, bound), bound, held)  # a bound that is NaN makes the result NaN
    return held


@means("clamp_min")
def _at_least(input: Expr, min: Expr) -> Expr:
    return _clamped(input, min, None)


@means("clamp_max")
def _at_most(input: Expr, max: Expr) -> Expr:
    return _clamped(input, None, max)


@means("fmax")
def _larger(input: Expr, other: Expr) -> Expr:
    return where(ne(other, other), input, where(ne(input, input), other, max_(input, other)))


@means("fmin")
def _smaller(input: Expr, other: Expr) -> Expr:
    return where(ne(other, other), input, where(ne(input, input), other, min_(input, other)))


@means("sign", "sgn")
def _sign(input: Expr) -> Expr:
    one, zero = (1.0, 0.0) if input.scalar is Scalar.FLOAT else (1, 0)
    return where(gt(input, 0), one, where(lt(input, 0), neg(one), zero))


@means("signbit")
def is_negative(input: Expr) -> Expr:
    """Whether a number is below 0; of floats also -0.0."""
    # -0.0 has a sign, which only its reciprocal shows.
    return lt(input, 0) if input.scalar is not Scalar.FLOAT else or_(lt(input, 0), lt(div(1.0, input), 0))


@means("copysign")
def _signed(input: Expr, other: Expr) -> Expr:
    size = abs_(float_(input))
    return where(is_negative(other), neg(size), size)


@means("heaviside")
def _step(input: Expr, values: Expr) -> Expr:
    return where(eq(input, 0), values, where(gt(input, 0), _like(const(1), values), _like(const(0), values)))


@means("isnan")
def _is_nan(input: Expr) -> Expr:
    return ne(input, input) if input.scalar is Scalar.FLOAT else const(False)


@means("isinf")
def _is_infinite(input: Expr) -> Expr:
    return eq(abs_(input), math.inf) if input.scalar is Scalar.FLOAT else const(False)


@means("isfinite")
def _is_finite(input: Expr) -> Expr:
    return lt(abs_(input), math.inf) if input.scalar is Scalar.FLOAT else const(True)


@means("isposinf")
def _is_positive_infinity(input: Expr) -> Expr:
    return eq(input, math.inf) if input.scalar is Scalar.FLOAT else const(False)


@means("isneginf")
def is_negative_infinity(input: Expr) -> Expr:
    """Whether a number is -inf."""
    return eq(input, -math.inf) if input.scalar is Scalar.FLOAT else const(False)


@means("nan_to_num")
def _numbers_only(input: Expr, nan: Number = 0.0, posinf: Expr | None = None, neginf: Expr | None = None) -> Expr:
    if input.scalar is not Scalar.FLOAT:
        return input
    if posinf is None or neginf is None:
        raise LanguageError("what infinity becomes depends on the dtype of q", hint="give `posinf=` and `neginf=`")
    finite = where(eq(input, math.inf), float_(posinf), where(eq(input, -math.inf), float_(neginf), input))
    return where(ne(input, input), float_(nan), finite)


@means("isclose")
def _is_close(input: Expr, other: Expr, rtol: Number = 1e-5, atol: Number = 1e-8, equal_nan: bool = False) -> Expr:
    gap = abs_(sub(float_(input), float_(other)))
    near = and_(le(gap, add(atol, mul(rtol, abs_(other)))), lt(gap, math.inf))
    close = or_(eq(input, other), near)
    return or_(close, and_(ne(input, input), ne(other, other))) if equal_nan else close


@means("logical_and")
def _both(input: Expr, other: Expr) -> Expr:
    return and_(cast(input, Scalar.BOOL), cast(other, Scalar.BOOL))


@means("logical_or")
def _either(input: Expr, other: Expr) -> Expr:
    return or_(cast(input, Scalar.BOOL), cast(other, Scalar.BOOL))


@means("logical_xor")
def _one(input: Expr, other: Expr) -> Expr:
    return apply(Op.XOR, cast(input, Scalar.BOOL), cast(other, Scalar.BOOL))


@means("logical_not")
def _neither(input: Expr) -> Expr:
    return not_(cast(input, Scalar.BOOL))


# Rounding.


@means("round")
def _rounded(input: Expr, *, decimals: int = 0) -> Expr:
    if decimals == 0 or input.scalar is not Scalar.FLOAT:
        return apply(Op.ROUND, input)
    ten = const(10.0 ** abs(decimals))
    if decimals > 0:
        return div(apply(Op.ROUND, mul(input, ten)), ten)
    return mul(apply(Op.ROUND, div(input, ten)), ten)


@means("frac")
def _fraction(input: Expr) -> Expr:
    return sub(input, apply(Op.TRUNC, input))

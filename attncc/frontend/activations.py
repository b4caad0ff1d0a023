"""What torch's logarithms, exponentials, angles and activation functions mean."""

from __future__ import annotations

import math

from attncc.errors import LanguageError
from attncc.frontend.algebra import (
    Number,
    abs_,
    add,
    and_,
    atan,
    div,
    eq,
    exp,
    float_,
    ge,
    gt,
    le,
    log,
    log1p,
    lt,
    max_,
    means,
    min_,
    mul,
    ne,
    neg,
    sqrt,
    sub,
    where,
)
from attncc.frontend.torch_functions import is_negative
from attncc.ir import Expr, Op, apply, const, functions

ALPHA_SELU = 1.6732632423543772848170429916717
SCALE_SELU = 1.0507009873554804934193349852946

# Logarithms, exponentials, angles.


@means("log10")
def _log10(input: Expr) -> Expr:
    return div(log(input), math.log(10.0))


@means("logit", "special_logit")
def _logit(input: Expr, eps: Expr | None = None) -> Expr:
    held = input if eps is None else functions.clamp(input, eps, sub(1.0, eps))
    return log(div(held, sub(1.0, held)))


@means("xlogy", "special_xlogy")
def _x_log_y(input: Expr, other: Expr) -> Expr:
    product = where(eq(input, 0), 0.0, mul(input, log(other)))
    return where(ne(other, other), float_(other), product)


@means("logaddexp")
def _log_add_exp(input: Expr, other: Expr) -> Expr:
    larger = max_(input, other)
    sum_ = add(larger, log1p(exp(neg(abs_(sub(input, other))))))
    return where(and_(eq(input, other), eq(abs_(input), math.inf)), larger, sum_)


@means("sinc", "special_sinc")
def _sinc(input: Expr) -> Expr:
    angle = mul(input, math.pi)
    return where(eq(input, 0), 1.0, div(apply(Op.SIN, angle), angle))


@means("tan")
def _tan(input: Expr) -> Expr:
    return div(apply(Op.SIN, input), apply(Op.COS, input))


@means("asin", "arcsin")
def _asin(input: Expr) -> Expr:
    return atan(div(input, sqrt(mul(sub(1.0, input), add(1.0, input)))))


@means("acos", "arccos")
def _acos(input: Expr) -> Expr:
    return sub(math.pi / 2, _asin(input))


@means("atan2", "arctan2")
def _atan2(input: Expr, other: Expr) -> Expr:
    y, x = float_(input), float_(other)
    turn = where(is_negative(y), -math.pi, math.pi)
    quarter = where(lt(y, 0), -math.pi / 2, math.pi / 2)
    on_axis = where(eq(y, 0), where(is_negative(x), turn, y), quarter)
    angle = atan(div(y, x))
    return where(eq(x, 0), on_axis, where(lt(x, 0), add(angle, turn), angle))


@means("sinh")
def _sinh(input: Expr) -> Expr:
    grown = apply(Op.EXPM1, input)
    near = mul(0.5, add(grown, div(grown, add(grown, 1.0))))
    return where(lt(abs_(input), 1.0), near, mul(0.5, sub(exp(input), exp(neg(input)))))


@means("cosh")
def _cosh(input: Expr) -> Expr:
    return mul(0.5, add(exp(input), exp(neg(input))))


@means("asinh", "arcsinh")
def _asinh(input: Expr) -> Expr:
    size = abs_(float_(input))
    value = log(add(size, sqrt(add(mul(size, size), 1.0))))
    return where(lt(input, 0), neg(value), value)


@means("acosh", "arccosh")
def _acosh(input: Expr) -> Expr:
    return log(add(input, sqrt(mul(sub(input, 1.0), add(input, 1.0)))))


@means("atanh", "arctanh")
def _atanh(input: Expr) -> Expr:
    return mul(0.5, sub(log1p(input), log1p(neg(input))))


@means("erfc", "special_erfc")
def _erfc(input: Expr) -> Expr:
    return sub(1.0, apply(Op.ERF, input))


# Activation functions.


def _not_in_place(name: str, inplace: bool) -> None:
    if inplace:
        raise LanguageError(f"`{name}` may not change its argument", hint="leave out `inplace=True`")


@means("relu")
def _relu(input: Expr, inplace: bool = False) -> Expr:
    _not_in_place("relu", inplace)
    return functions.relu(input)


@means("relu6")
def _relu6(input: Expr, inplace: bool = False) -> Expr:
    return _hardtanh(input, const(0.0), const(6.0), inplace)


@means("hardtanh")
def _hardtanh(input: Expr, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False) -> Expr:
    _not_in_place("hardtanh", inplace)
    # Not `clamp`: here torch's derivative at a bound is 0.
    return where(le(input, min_val), min_val, where(ge(input, max_val), max_val, input))


@means("silu")
def _silu(input: Expr, inplace: bool = False) -> Expr:
    _not_in_place("silu", inplace)
    return functions.silu(float_(input))


@means("gelu")
def _gelu(input: Expr, *, approximate: str = "none") -> Expr:
    if approximate == "none":
        return functions.gelu(input)
    inner = mul(math.sqrt(2 / math.pi), add(input, mul(0.044715, mul(input, mul(input, input)))))
    return mul(mul(0.5, input), add(1.0, apply(Op.TANH, inner)))


@means("softplus")
def _softplus(input: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    scaled = mul(input, float(beta))
    soft = functions.softplus(scaled) if beta == 1 else div(functions.softplus(scaled), float(beta))
    # Above the threshold torch is linear, and so is its derivative.
    return where(gt(scaled, float(threshold)), input, soft)


@means("logsigmoid", "log_sigmoid")
def _log_sigmoid(input: Expr) -> Expr:
    return sub(min_(input, 0.0), log1p(exp(neg(abs_(input)))))


@means("leaky_relu")
def _leaky_relu(input: Expr, negative_slope: Number = 0.01, inplace: bool = False) -> Expr:
    _not_in_place("leaky_relu", inplace)
    return where(gt(input, 0), input, mul(input, negative_slope))


@means("prelu")
def _prelu(input: Expr, weight: Expr) -> Expr:
    return where(gt(input, 0), input, mul(input, weight))


@means("elu")
def _elu(input: Expr, alpha: Number = 1.0, inplace: bool = False) -> Expr:
    _not_in_place("elu", inplace)
    return where(gt(input, 0), input, mul(alpha, apply(Op.EXPM1, input)))


@means("celu")
def _celu(input: Expr, alpha: Number = 1.0, inplace: bool = False) -> Expr:
    _not_in_place("celu", inplace)
    return where(gt(input, 0), input, mul(alpha, apply(Op.EXPM1, div(input, alpha))))


@means("selu")
def _selu(input: Expr, inplace: bool = False) -> Expr:
    return mul(SCALE_SELU, _elu(input, const(ALPHA_SELU), inplace))


@means("mish")
def _mish(input: Expr, inplace: bool = False) -> Expr:
    _not_in_place("mish", inplace)
    return mul(input, apply(Op.TANH, functions.softplus(input)))


@means("softsign")
def _softsign(input: Expr) -> Expr:
    return div(input, add(1.0, abs_(input)))


@means("tanhshrink")
def _tanhshrink(input: Expr) -> Expr:
    return sub(input, apply(Op.TANH, input))


@means("hardsigmoid")
def _hardsigmoid(input: Expr, inplace: bool = False) -> Expr:
    _not_in_place("hardsigmoid", inplace)
    inside = div(add(input, 3.0), 6.0)
    return where(le(input, -3.0), 0.0, where(ge(input, 3.0), 1.0, inside))


@means("hardswish")
def _hardswish(input: Expr, inplace: bool = False) -> Expr:
    _not_in_place("hardswish", inplace)
    inside = mul(input, div(add(input, 3.0), 6.0))
    return where(le(input, -3.0), mul(input, 0.0), where(ge(input, 3.0), input, inside))


@means("hardshrink")
def _hardshrink(input: Expr, lambd: Number = 0.5) -> Expr:
    return where(and_(ge(input, neg(lambd)), le(input, lambd)), 0.0, input)


@means("softshrink")
def _softshrink(input: Expr, lambd: Number = 0.5) -> Expr:
    return where(gt(input, lambd), sub(input, lambd), where(lt(input, neg(lambd)), add(input, lambd), mul(input, 0.0)))


@means("threshold", "_threshold")
def _threshold(input: Expr, threshold: Expr, value: Expr, inplace: bool = False) -> Expr:
    _not_in_place("threshold", inplace)
    return where(le(input, threshold), value, input)

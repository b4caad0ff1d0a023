"""Functions that are short for a few operations: both front ends expand them here, so that they mean the same.

Each keeps NaN, and has the derivative that torch gives its function of the same name where two branches meet.
"""

from __future__ import annotations

from attncc.ir.build import apply
from attncc.ir.expr import Expr, Op, Scalar, const

SQRT_HALF = 0.5**0.5


def clamp(x: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """x held between two bounds, `high` where they cross; the derivative is 1 at a bound."""
    if low is not None:
        x = _bounded(x, low, Op.LT, Op.MAX)
    if high is not None:
        x = _bounded(x, high, Op.GT, Op.MIN)
    return x


def _bounded(x: Expr, bound: Expr, beyond: Op, choice: Op) -> Expr:
    # An int has no derivative, and max(x, low) is the shorter way to say it.
    if max(x.scalar, bound.scalar) < Scalar.FLOAT:
        return apply(choice, x, bound)
    return apply(Op.WHERE, apply(beyond, x, bound), bound, x)


def relu(x: Expr) -> Expr:
    """0 below 0, x above; the derivative at 0 is 0."""
    return apply(Op.WHERE, apply(Op.LE, x, const(0)), const(0), x)


def silu(x: Expr) -> Expr:
    """x * sigmoid(x)."""
    return apply(Op.MUL, x, apply(Op.SIGMOID, x))


def gelu(x: Expr) -> Expr:
    """x times the normal distribution function of x, by erf."""
    bell = apply(Op.ADD, const(1.0), apply(Op.ERF, apply(Op.MUL, x, const(SQRT_HALF))))
    return apply(Op.MUL, apply(Op.MUL, const(0.5), x), bell)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), without overflow."""
    tail = apply(Op.LOG1P, apply(Op.EXP, apply(Op.NEG, apply(Op.ABS, x))))
    return apply(Op.ADD, apply(Op.MAX, x, const(0)), tail)

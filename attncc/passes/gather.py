"""Constant factors gathered into one, in what the compiler itself wrote: derivatives.

A user's sums and products are never regrouped. The chain rule leaves factors that meet only there: those of
c tanh(s / c) are c and 1 / c, at every pair, which cancel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from attncc.ir import Expr, Op, Scalar, apply, const, postorder, with_args

#: Factors of these sizes are gathered: no product of a few of them is rounded to 0 or to an infinity.
SMALLEST: Final = 1e-6
LARGEST: Final = 1e6


def gather(expr: Expr, written: Collection[Expr]) -> Expr:
    """The expression with x * a * b, x * a / b, x / a * b and x / a / b as one product of x, for constants a and b.

    What the user has written stays as it is, so that its value is computed once.
    """
    done: dict[Expr, Expr] = {}
    for each in postorder(expr):
        if each in written:
            done[each] = each
            continue
        made = with_args(each, tuple(done[arg] for arg in each.args))
        done[each] = _gathered(made, written)
    return done[expr]


def _gathered(expr: Expr, written: Collection[Expr]) -> Expr:
    outer = _factor(expr)
    inner = None if outer is None or outer[0] in written else _factor(outer[0])
    if outer is None or inner is None:
        return expr
    factor = (outer[1] * inner[1]) / (outer[2] * inner[2])
    if not SMALLEST <= abs(factor) <= LARGEST:
        return expr
    return inner[0] if factor == 1.0 else apply(Op.MUL, inner[0], const(factor))


def _factor(expr: Expr) -> tuple[Expr, float, float] | None:
    """A product with a constant as what is multiplied, by which number, and divided by which."""
    if expr.op not in (Op.MUL, Op.DIV) or expr.scalar is not Scalar.FLOAT:
        return None
    x, y = expr.args
    if expr.op is Op.MUL and x.op is Op.CONST:
        x, y = y, x
    if y.op is not Op.CONST or not isinstance(y.value, float) or not SMALLEST <= abs(y.value) <= LARGEST:
        return None
    return (x, y.value, 1.0) if expr.op is Op.MUL else (x, 1.0, y.value)

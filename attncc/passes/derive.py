"""Derivatives: reverse mode over the graph of an expression, one row of `DERIVATIVES` for each operation.

The result is an expression again. Each node is visited once and its adjoint is a sum over its users, so the derivative
of a graph with shared nodes stays of its size. Where torch makes a choice, so does this table: a tie of `min` or `max`
gives 1/2 to each operand, |x| has derivative 0 at 0, `x % y` has 1 by x and -(x // y) by y; rounding, comparing,
`//` and conversion to an int have 0; rounding to a shorter float passes the gradient on. A clamp whose derivative is 1
at its bound is written with `where`, as `attncc.ir.functions.clamp` does; `min` and `max` have 1/2 there.

An operand that `where`, `min` or `max` did not select contributes 0, even where its own derivative is infinite or NaN:
`SELECTS` says when an operand is selected, and the adjoint is cut by that condition where it leaves the branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Final

from attncc.errors import InternalError
from attncc.ir import SCORE, TRUE, Expr, Op, Scalar, apply, conjunction, const, disjunction, postorder
from attncc.passes.rules import add, both, invert, mul, neg, sub, where
from attncc.passes.simplify import simplify

Row = Callable[[Expr, Expr], tuple[Expr | None, ...]]
ZERO, HALF, ONE, TWO = const(0.0), const(0.5), const(1.0), const(2.0)
LN_2: Final = const(math.log(2.0))
TWO_OVER_SQRT_PI: Final = const(2.0 / math.sqrt(math.pi))

div, floordiv, power = partial(apply, Op.DIV), partial(apply, Op.FLOORDIV), partial(apply, Op.POW)
exp, log, sin, cos = (partial(apply, op) for op in (Op.EXP, Op.LOG, Op.SIN, Op.COS))
less, greater, equal = (partial(apply, op) for op in (Op.LT, Op.GT, Op.EQ))


def _unary(factor: Callable[[Expr, Expr], Expr]) -> Row:
    """A row from the derivative of a function, given its operand x and its value y."""
    return lambda e, g: (mul(g, factor(e.args[0], e)),)


def _power(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x, y = e.args
    # x ** 0 has derivative 0 even where x is 0, and 0 ** y, for y >= 0, has derivative 0 by y.
    by_x = where(equal(y, ZERO), ZERO, mul(g, mul(y, power(x, sub(y, ONE)))))
    at_zero = both(equal(x, ZERO), apply(Op.GE, y, ZERO))
    return by_x, where(at_zero, ZERO, mul(g, mul(e, log(x))))


def _extreme(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
    half = mul(g, where(equal(*e.args), HALF, ONE))
    return half, half


def _absolute(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
    x = e.args[0]
    return (where(greater(x, ZERO), g, where(less(x, ZERO), neg(g), ZERO)),)


def _none(e: Expr, g: Expr) -> tuple[Expr | None, ...]:
    return (None,) * len(e.args)


#: For a node e with adjoint g: what it adds to the adjoint of each of its operands; None for nothing.
DERIVATIVES: Final[Mapping[Op, Row]] = {
    Op.ADD: lambda e, g: (g, g),
    Op.SUB: lambda e, g: (g, neg(g)),
    Op.MUL: lambda e, g: (mul(g, e.args[1]), mul(g, e.args[0])),
    Op.DIV: lambda e, g: (div(g, e.args[1]), neg(mul(g, div(e, e.args[1])))),
    Op.MOD: lambda e, g: (g, neg(mul(g, floordiv(*e.args)))),
    Op.POW: _power,
    Op.NEG: lambda e, g: (neg(g),),
    Op.ABS: _absolute,
    Op.MIN: _extreme,
    Op.MAX: _extreme,
    Op.EXP: _unary(lambda x, y: y),
    Op.EXP2: _unary(lambda x, y: mul(y, LN_2)),
    Op.EXPM1: _unary(lambda x, y: add(y, ONE)),
    Op.LOG: lambda e, g: (div(g, e.args[0]),),
    Op.LOG2: lambda e, g: (div(g, mul(e.args[0], LN_2)),),
    Op.LOG1P: lambda e, g: (div(g, add(e.args[0], ONE)),),
    Op.SQRT: lambda e, g: (div(g, mul(e, TWO)),),
    Op.RSQRT: _unary(lambda x, y: mul(mul(y, mul(y, y)), const(-0.5))),
    Op.TANH: _unary(lambda x, y: sub(ONE, mul(y, y))),
    Op.SIGMOID: _unary(lambda x, y: mul(y, sub(ONE, y))),
    Op.SIN: _unary(lambda x, y: cos(x)),
    Op.COS: _unary(lambda x, y: neg(sin(x))),
    Op.ATAN: lambda e, g: (div(g, add(mul(e.args[0], e.args[0]), ONE)),),
    Op.ERF: _unary(lambda x, y: mul(exp(neg(mul(x, x))), TWO_OVER_SQRT_PI)),
    Op.WHERE: lambda e, g: (None, g, g),
    Op.NARROW: lambda e, g: (g,),
    # leaves, and what is constant between its jumps
    **dict.fromkeys((Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD, Op.CAST), _none),
    **dict.fromkeys((Op.FLOORDIV, Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC), _none),
    **dict.fromkeys((Op.BIT_AND, Op.BIT_OR, Op.BIT_XOR, Op.SHIFT_LEFT, Op.SHIFT_RIGHT), _none),
    **dict.fromkeys((Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE, Op.AND, Op.OR, Op.XOR, Op.NOT), _none),
}
FLAT: Final = frozenset(op for op, row in DERIVATIVES.items() if row is _none)


#: When an operand is selected, for the operations that select one; both where a minimum or maximum is a tie.
#: `not x < y` is not `x >= y`: it holds where one of them is NaN.
SELECTS: Final[Mapping[Op, Callable[[Expr], tuple[Expr, ...]]]] = {
    Op.WHERE: lambda e: (TRUE, e.args[0], _opposite(e.args[0])),
    Op.MAX: lambda e: (invert(less(*e.args)), invert(greater(*e.args))),
    Op.MIN: lambda e: (invert(greater(*e.args)), invert(less(*e.args))),
}


def derive(root: Expr, wrt: Expr) -> Expr:
    """d root / d wrt, all paths together, as a simplified Float expression.

    `wrt` is SCORE, or one LOAD node of a Float capture: the derivative by the element that this node reads.
    """
    if (
        root.scalar is not Scalar.FLOAT
        or wrt.scalar is not Scalar.FLOAT
        or (wrt.op is not Op.LOAD and wrt is not SCORE)
    ):
        raise InternalError(f"no derivative of {root!r} by {wrt!r}")
    order = _reaching(root, wrt)
    arriving: dict[Expr, list[tuple[Expr, Expr]]] = {expr: [] for expr in order}
    if root in arriving:
        arriving[root].append((TRUE, ONE))
    for expr in reversed(order):
        if not arriving[expr]:  # every user is flat, or compares it
            continue
        active, adjoint = _gather(arriving[expr], always=expr is wrt)
        if expr is wrt:
            return simplify(adjoint)
        selected = SELECTS[expr.op](expr) if expr.op in SELECTS else (TRUE,) * len(expr.args)
        for arg, part, condition in zip(expr.args, DERIVATIVES[expr.op](expr, adjoint), selected, strict=True):
            if part is not None and arg in arriving:
                arriving[arg].append((conjunction(active, condition), part))
    return ZERO


def _reaching(root: Expr, wrt: Expr) -> list[Expr]:
    """The nodes below the root that a change of `wrt` reaches, `wrt` first."""
    order: list[Expr] = []
    reached: set[Expr] = set()
    for expr in postorder(root):
        flows = expr.op not in FLAT and any(arg in reached for arg in expr.args if arg.scalar is Scalar.FLOAT)
        if expr is wrt or flows:
            reached.add(expr)
            order.append(expr)
    return order


def _gather(parts: list[tuple[Expr, Expr]], *, always: bool) -> tuple[Expr, Expr]:
    """When a node takes part in the result, and its adjoint: the sum of its parts, each 0 where its user takes no part.

    A part may be anything where its condition is false, so it is cut, unless the node is active under just that one.
    """
    active = TRUE if always else reduce(_union, (condition for condition, _ in parts))
    total: Expr | None = None
    for condition, part in parts:
        cut = part if condition is active else where(condition, part, ZERO)
        total = cut if total is None else add(total, cut)
    assert total is not None
    return active, total


def _union(p: Expr, r: Expr) -> Expr:
    """`p or r`, with an eye for the pairs that the two operands of one node leave."""
    if p is r or TRUE in (p, r):
        return p if p is r else TRUE
    (outer, last), (other, also) = _last(p), _last(r)
    if outer is other and (_opposite(last) is also or _cover(last, also)):
        return outer
    if outer is r or other is p:
        return r if outer is r else p
    return disjunction(p, r)


def _last(p: Expr) -> tuple[Expr, Expr]:
    """A conjunction as what was there before, and its last term."""
    return (p.args[0], p.args[1]) if p.op is Op.AND else (TRUE, p)


def _opposite(p: Expr) -> Expr:
    return p.args[0] if p.op is Op.NOT else invert(p)


def _cover(p: Expr, r: Expr) -> bool:
    """Whether the two are `not x < y` and `not x > y`, one of which always holds."""
    if p.op is not Op.NOT or r.op is not Op.NOT:
        return False
    a, b = p.args[0], r.args[0]
    return {a.op, b.op} == {Op.LT, Op.GT} and a.args == b.args

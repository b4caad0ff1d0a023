"""Where along a walk of tiles a test can hold: from which tile on, and up to which, found by halving.

A walk takes the tiles of one axis in ascending order. What only rises along it (the ends of the tile, the statistics of
captured tensors that ascend) turns a comparison from False to True, or from True to False, once. Of a whole test that
gives two bounds: it implies `since`, which stays True once it is, and `until`, which stays False once it is. The first
and the last tile are then found in as many steps as the number of tiles has bits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, postorder

#: How a value changes along the walk: 1 it never falls, -1 it never rises, 0 it stays, None it may do anything.
Direction = int | None

_COMPARISONS = {Op.GE: 1, Op.GT: 1, Op.LE: -1, Op.LT: -1}


@dataclass(frozen=True, slots=True)
class Reach:
    """Bounds of a test along a walk: it holds only where `since` and `until` do; `exact`: and wherever both do."""

    since: Expr
    until: Expr
    exact: bool


def reach(test: Expr, rising: Collection[Expr]) -> Reach:
    """The bounds of a Bool along a walk on which the expressions in `rising` never fall, and no other input changes."""
    directions = directions_of(test, rising)
    found: dict[Expr, Reach] = {}
    for expr in postorder(test):
        if expr.scalar is Scalar.BOOL:
            found[expr] = _reach(expr, directions, found)
    return found[test]


def _reach(expr: Expr, directions: Mapping[Expr, Direction], found: Mapping[Expr, Reach]) -> Reach:
    match directions[expr]:
        case 0:
            return Reach(expr, expr, True)
        case 1:
            return Reach(expr, TRUE, True)
        case -1:
            return Reach(TRUE, expr, True)
    if expr.op not in (Op.AND, Op.OR):
        return Reach(TRUE, TRUE, False)
    a, b = (found[arg] for arg in expr.args)
    join = _both if expr.op is Op.AND else _either
    # `or` with what never changes leaves the bounds exact: either all tiles, or those between the other's bounds
    apart = expr.op is Op.AND or any(directions[arg] == 0 for arg in expr.args)
    return Reach(join(a.since, b.since), join(a.until, b.until), apart and a.exact and b.exact)


def _both(a: Expr, b: Expr) -> Expr:
    return b if a is TRUE else a if b is TRUE or a is b else apply(Op.AND, a, b)


def _either(a: Expr, b: Expr) -> Expr:
    return TRUE if TRUE in (a, b) else b if a is FALSE else a if b is FALSE or a is b else apply(Op.OR, a, b)


def directions_of(root: Expr, rising: Collection[Expr]) -> dict[Expr, Direction]:
    """The direction of every part of an expression."""
    found: dict[Expr, Direction] = {}
    for expr in postorder(root):
        found[expr] = 1 if expr in rising else _direction(expr, [found[arg] for arg in expr.args])
    return found


def _direction(expr: Expr, args: list[Direction]) -> Direction:
    """The direction of one operation. Sums of Floats are left out: an infinity can turn one into NaN."""
    if not any(arg != 0 for arg in args):
        return 0
    first, *rest = args
    match expr.op:
        case Op.NEG | Op.NOT:
            return _times(first, -1)
        case Op.ADD | Op.MIN | Op.MAX if expr.scalar is Scalar.INDEX:
            return _joined(*args)
        case Op.SUB if expr.scalar is Scalar.INDEX:
            return _joined(first, _times(rest[0], -1))
        case Op.MUL | Op.FLOORDIV if expr.scalar is Scalar.INDEX:
            return _scaled(expr, args)
        case Op.GE | Op.GT | Op.LE | Op.LT:
            sign = _COMPARISONS[expr.op]
            return _joined(_times(first, sign), _times(rest[0], -sign))
        case Op.AND | Op.OR:
            return _joined(*args)
        case Op.WHERE if first == 0:
            return _joined(*rest)
        case Op.CAST if expr.scalar is Scalar.INDEX and expr.args[0].scalar is Scalar.BOOL:
            return first
    return None


def _scaled(expr: Expr, args: list[Direction]) -> Direction:
    """The direction of a product with a number, or of a quotient by one."""
    for i in (1, 0) if expr.op is Op.MUL else (1,):
        factor = expr.args[i]
        if factor.op is Op.CONST and isinstance(factor.value, int) and factor.value != 0:
            return _times(args[1 - i], 1 if factor.value > 0 else -1)
    return None


def _times(direction: Direction, sign: int) -> Direction:
    return None if direction is None else direction * sign


def _joined(*directions: Direction) -> Direction:
    """The direction of what rises with each of these."""
    moving = {direction for direction in directions if direction != 0}
    return moving.pop() if len(moving) == 1 else None if moving else 0

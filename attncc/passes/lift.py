"""Moving what a -inf in the score hides into the mask, where tiles can be skipped for it.

A pair is hidden where a -inf that the definition writes is chosen by `where`, and stays under a sum, a difference, a
minimum, a maximum of two such, or a positive constant factor: `where(c, score, -inf) + bias[h]` is masked wherever c is
false, even where the bias is NaN. What hides without reading the score goes into the mask; what reads it becomes one
`where` at the outside of the score. Finite constants such as -1e9 hide nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from attncc.ir import (
    FALSE,
    NEG_INF,
    SCORE,
    TRUE,
    AttentionSpec,
    Expr,
    Op,
    Scalar,
    conjunction,
    const,
    disjunction,
    postorder,
    with_args,
)
from attncc.passes.rules import invert, number, where
from attncc.passes.simplify import simplify

ANYTHING: Final = const(0.0)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Where a value is -inf for certain: by conditions free of the score, and by those that read it.

    `rest` equals the value wherever it is not hidden; None where it is hidden everywhere.
    """

    free: Expr
    bound: Expr
    rest: Expr | None


def lift(spec: AttentionSpec) -> AttentionSpec:
    """The same variant with what its score hides in its mask; a spec that hides nothing stays as it is."""
    hidden = _hide(spec.score)
    if hidden.free is FALSE and hidden.bound is FALSE:
        return spec
    score = hidden.rest or ANYTHING
    if hidden.bound is not FALSE:
        score = where(hidden.bound, NEG_INF, score)
    mask = spec.mask if hidden.free is FALSE else conjunction(spec.mask, invert(hidden.free))
    return replace(spec, score=simplify(score), mask=simplify(mask))


def _hide(score: Expr) -> Hidden:
    reading: set[Expr] = set()
    found: dict[Expr, Hidden] = {}
    for expr in postorder(score):
        if expr is SCORE or not reading.isdisjoint(expr.args):
            reading.add(expr)
        found[expr] = _step(expr, [found[arg] for arg in expr.args], reading)
    return found[score]


def _step(expr: Expr, args: list[Hidden], reading: set[Expr]) -> Hidden:
    """What hides an expression, given what hides its operands."""
    plain = Hidden(FALSE, FALSE, expr)
    if expr.scalar is not Scalar.FLOAT:
        return plain
    match expr.op:
        case Op.CONST if expr is NEG_INF:
            return Hidden(TRUE, FALSE, None)
        case Op.WHERE:
            return _choose(expr, args[1], args[2], expr.args[0] in reading)
        case Op.ADD | Op.MIN:
            return _through(expr, args)
        case Op.SUB:
            return _through(expr, [args[0], Hidden(FALSE, FALSE, expr.args[1])])
        case Op.MUL | Op.DIV if _is_positive(expr.args[1]) or (expr.op is Op.MUL and _is_positive(expr.args[0])):
            return _through(expr, args)
        case Op.MAX:
            one, other = args
            ways = [disjunction(arg.free, arg.bound) for arg in args]
            bound = disjunction(_and(one.bound, ways[1]), _and(ways[0], other.bound))
            return Hidden(_and(one.free, other.free), bound, expr)
        case _:
            return plain


def _choose(expr: Expr, one: Hidden, other: Hidden, reads_score: bool) -> Hidden:
    condition = expr.args[0]
    opposite = invert(condition)
    rest = one.rest or other.rest
    if one.rest is not None and other.rest is not None:
        rest = where(condition, one.rest, other.rest)
    if not reads_score:
        free = disjunction(_and(condition, one.free), _and(opposite, other.free))
        return Hidden(free, disjunction(_and(condition, one.bound), _and(opposite, other.bound)), rest)
    ways = [disjunction(branch.free, branch.bound) for branch in (one, other)]
    bound = disjunction(_and(condition, ways[0]), _and(opposite, ways[1]))
    return Hidden(_and(one.free, other.free), bound, rest)


def _through(expr: Expr, args: list[Hidden]) -> Hidden:
    """An operation that is -inf as soon as one of its operands is."""
    free = disjunction(*(arg.free for arg in args))
    bound = disjunction(*(arg.bound for arg in args))
    rests = tuple(arg.rest for arg in args if arg.rest is not None)
    return Hidden(free, bound, with_args(expr, rests) if len(rests) == len(args) else None)


def _and(p: Expr, r: Expr) -> Expr:
    return FALSE if FALSE in (p, r) else conjunction(p, r)


def _is_positive(expr: Expr) -> bool:
    value = number(expr)
    return value is not None and 0 < value < math.inf

"""Whether a box of integers holds a solution of linear inequalities, exactly, as an expression.

The constraints are a*q + c*kv + e >= 0 with integers a, c and any e that is the same for the whole box. One variable
is eliminated as in Pugh's Omega test (1991): where a pair of bounds has a coefficient 1, the elimination of Fourier
and Motzkin is exact. Otherwise the *dark shadow* b*f + a*g >= (a - 1)*(b - 1) is enough, and solutions outside it lie
within a known distance above a lower bound: these are finitely many equations, each a congruence for the other
variable. That is then bounded by floor divisions, and the question is whether a number of its residue lies between.
Where two of the constraints leave a few lines only, as an equation leaves one, these are looked at and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from attncc.analysis.congruences import Lines, between
from attncc.analysis.linear import ONE, Form, tightened
from attncc.analysis.logic import joined
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.systems import Bound, Constraint, Sides, eliminate, given, split, strongest
from attncc.ir import FALSE, TRUE, Expr, Op


@dataclass(frozen=True, slots=True)
class Side:
    """One variable of the box and its ends, both included."""

    variable: Expr
    lo: Form
    hi: Form


def has_solution(
    numbers: ExprNumbers, forms: Sequence[Form], q: Side, kv: Side, most_lines: int | None = None
) -> Expr | None:
    """The condition that some pair of the box satisfies form >= 0 for all forms; None if a form is not linear with
    integer coefficients, the system grows too large, or more than `most_lines` lines would have to be looked at."""
    variables = {q.variable, kv.variable}
    for form in forms:
        if any(len(m) > 1 and variables & set(m) for m in form.terms):
            return None
    ends = [(_plain(s.variable, 1).plus(s.lo, -1), None) for s in (q, kv)]
    ends += [(_plain(s.variable, -1).plus(s.hi), None) for s in (q, kv)]
    constraints = strongest(numbers, given([(tightened(form), None) for form in forms] + ends))
    xy = (kv.variable, q.variable)
    strip, width = _narrowest(constraints, xy)
    if width < 0:
        return FALSE
    ways = [(split(numbers, constraints, x), x, y) for x, y in permutations(xy)]
    sides, x, y = min(ways, key=lambda way: _count(_lines(way[0])))
    count = _count(_lines(sides))
    if most_lines is not None and min(count, width) > most_lines:
        return None
    if strip is not None and width <= count:
        return _in_strip(numbers, constraints, strip, int(width), xy)
    return _by_eliminating(numbers, constraints, sides, (x, y))


def _plain(variable: Expr, factor: int) -> Form:
    return Form({(variable,): factor})


def _narrowest(constraints: Sequence[Constraint], xy: tuple[Expr, Expr]) -> tuple[Constraint | None, float]:
    """The constraint f >= 0 with the least w for which another one says f <= w, and w; None and infinity without."""
    within = [each for each in constraints if any((x,) in each.form.terms for x in xy)]
    least = {each.form.key(): each.form.constant for each in within}
    best, width = None, math.inf
    for each in within:
        room = each.form.constant + least.get(each.form.scaled(-1).key(), math.inf)
        if room < width:
            best, width = each, room
    return best, width


def _in_strip(
    numbers: ExprNumbers, constraints: Sequence[Constraint], strip: Constraint, width: int, xy: tuple[Expr, Expr]
) -> Expr:
    """The condition that a solution lies on one of the lines f = 0 to f = width: all solutions do."""
    x, y = min(permutations(xy), key=lambda way: abs(strip.form.terms.get((way[0],), math.inf)))
    lines = Lines(numbers, constraints, strip, (x, y))
    ways: list[Expr] = []
    for distance in range(width + 1):
        ways.append(lines.holds(distance))
        if ways[-1] is TRUE:
            return TRUE
    return joined(Op.OR, *ways)


def _lines(sides: Sides) -> list[tuple[Bound, int]]:
    """Bounds with the distances from them at which solutions outside of the dark shadow can lie.

    A pair a*x + f >= 0, g - b*x >= 0 whose shadow fails has b*f + a*g <= a*b - a - b, so that a solution has
    a*x + f <= (a*b - a - b) / b, and g - b*x <= (a*b - a - b) / a: either side will do, the one with fewer lines is it.
    """
    found = []
    for these, those in ((sides.lowers, sides.uppers), (sides.uppers, sides.lowers)):
        largest = max((other.factor.constant for other in those), default=1)
        mine = [(each, each.factor.constant) for each in these if each.factor != ONE and largest > 1]
        found.append([(each, (largest * a - largest - a) // largest) for each, a in mine])
    return min(found, key=_count)


def _count(lines: Sequence[tuple[Bound, int]]) -> int:
    return sum(distance + 1 for _, distance in lines)


def _by_eliminating(
    numbers: ExprNumbers, constraints: Sequence[Constraint], sides: Sides, xy: tuple[Expr, Expr]
) -> Expr | None:
    x, y = xy
    lines = _lines(sides)
    if not lines:
        eliminated = eliminate(numbers, constraints, x, 1)
        return None if eliminated is None else between(numbers, eliminated[0], y)
    dark = list(sides.rest)
    for lower in sides.lowers:
        for upper in sides.uppers:
            slack = (lower.factor.constant - 1) * (upper.factor.constant - 1)
            shadow = _scaled_pair(lower, upper).shifted(-slack)
            dark.append(Constraint(tightened(shadow), lower.constraint.history | upper.constraint.history))
    ways = [between(numbers, strongest(numbers, dark), y, prune=False)]
    for bound, furthest in lines:
        beside = Lines(numbers, constraints, bound.constraint, xy)
        for distance in range(furthest + 1):
            ways.append(beside.holds(distance))
            if TRUE in ways[-2:]:
                return TRUE
    return joined(Op.OR, *ways)


def _scaled_pair(lower: Bound, upper: Bound) -> Form:
    """b*f + a*g, not divided by a common factor: the dark shadow's slack is meant for this scale."""
    return lower.constraint.form.scaled(upper.factor.constant).plus(upper.constraint.form, lower.factor.constant)

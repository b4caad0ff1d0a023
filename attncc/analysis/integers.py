"""Whether a box of integers holds a solution of linear inequalities, exactly, as an expression.

The constraints are a*q + c*kv + e >= 0 with integers a, c and any e that is the same for the whole box. One variable
is eliminated as in Pugh's Omega test (1991): where a pair of bounds has a coefficient 1, the elimination of Fourier
and Motzkin is exact. Otherwise the *dark shadow* b*f + a*g >= (a - 1)*(b - 1) is enough, and solutions outside it lie
within a known distance above a lower bound: these are finitely many equations, each a congruence for the other
variable. That is then bounded by floor divisions, and the question is whether a number of its residue lies between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations

from attncc.analysis.linear import ONE, Form, expression, form_of, is_zero, operated, tightened
from attncc.analysis.logic import joined
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.systems import Bound, Constraint, Sides, combined, eliminate, given, split, strongest
from attncc.ir import FALSE, TRUE, Expr, Op, apply, const, node
from attncc.ir.expr import Scalar


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
    ways = [(split(numbers, constraints, x), x, y) for x, y in permutations((kv.variable, q.variable))]
    sides, x, y = min(ways, key=lambda way: _count(_lines(way[0])))
    if most_lines is not None and _count(_lines(sides)) > most_lines:
        return None
    return _by_eliminating(numbers, constraints, sides, (x, y))


def _plain(variable: Expr, factor: int) -> Form:
    return Form({(variable,): factor})


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
        return None if eliminated is None else _between(numbers, eliminated[0], y)
    dark = list(sides.rest)
    for lower in sides.lowers:
        for upper in sides.uppers:
            slack = (lower.factor.constant - 1) * (upper.factor.constant - 1)
            shadow = _scaled_pair(lower, upper).shifted(-slack)
            dark.append(Constraint(tightened(shadow), lower.constraint.history | upper.constraint.history))
    ways = [_between(numbers, strongest(numbers, dark), y, prune=False)]
    for bound, furthest in lines:
        for distance in range(furthest + 1):
            ways.append(_on_line(numbers, constraints, bound, distance, xy))
            if TRUE in ways[-2:]:
                return TRUE
    return joined(Op.OR, *ways)


def _scaled_pair(lower: Bound, upper: Bound) -> Form:
    """b*f + a*g, not divided by a common factor: the dark shadow's slack is meant for this scale."""
    return lower.constraint.form.scaled(upper.factor.constant).plus(upper.constraint.form, lower.factor.constant)


def _on_line(
    numbers: ExprNumbers, constraints: Sequence[Constraint], bound: Bound, distance: int, xy: tuple[Expr, Expr]
) -> Expr:
    """The condition that a solution lies on a*x + b*y + e = distance, where a*x + b*y + e >= 0 is a bound."""
    x, y = xy
    form = bound.constraint.form.shifted(-distance)
    if form.terms[(x,)] < 0:
        form = form.scaled(-1)
    a, b = form.terms[(x,)], form.terms.get((y,), 0)
    level = form.without(x, y).scaled(-1)  # a*x + b*y = level
    shared = math.gcd(a, b)
    step = a // shared
    divisible = is_zero(_remainder(level, shared))
    if divisible is FALSE:
        return FALSE
    # b*y = level modulo a, so y = level / shared * (b / shared)**-1 modulo a / shared
    inverse = pow(b // shared, -1, step) if step > 1 else 0
    start = numbers.mul(numbers.floordiv(expression(level), const(shared)), const(inverse), True)
    lines = []
    for each in constraints:
        factor = each.form.terms.get((x,), 0)  # a * x is level - b * y
        terms = {m: c * a for m, c in each.form.terms.items() if m != (x,)}
        turned = terms.pop((y,), 0) - factor * b
        if turned:
            terms[y,] = turned
        lines.append(Constraint(Form(terms, each.form.constant * a).plus(level, factor), each.history))
    found = _strided(numbers, lines, y, step, start)
    return _lifted(numbers.and_(divisible, found))


def _remainder(form: Form, divisor: int) -> Form:
    """form % divisor as a form: a number where the form is one, an atom otherwise."""
    if divisor == 1:
        return Form({})
    if not form.terms:
        return Form({}, form.constant % divisor)
    if all(c % divisor == 0 for c in form.terms.values()):
        return Form({}, form.constant % divisor)
    return Form({(node(Op.MOD, (expression(form), const(divisor)), None, Scalar.INDEX),): 1})


def _between(numbers: ExprNumbers, constraints: Sequence[Constraint], y: Expr, prune: bool = True) -> Expr:
    """The condition that an integer y satisfies all constraints: each lower bound is at most each upper bound."""
    sides = split(numbers, constraints, y)
    needed = [numbers.holds(each.form) for each in sides.rest]
    for lower in sides.lowers:
        for upper in sides.uppers:
            history = lower.constraint.history | upper.constraint.history
            if lower.factor != ONE and upper.factor != ONE:
                room = (form_of(_quotient(each, y)) for each in (lower, upper))
                needed.append(numbers.holds(next(room).plus(next(room))))
            elif prune and len(history) > 3:
                continue  # follows from the others: Kohler's rule after two eliminations
            else:
                needed.append(numbers.holds(combined(lower, upper)))
            if needed[-1:] == [FALSE]:
                return FALSE
    return joined(Op.AND, *needed)


def _strided(numbers: ExprNumbers, constraints: Sequence[Constraint], y: Expr, step: int, start: Expr) -> Expr:
    """The condition that some y = start modulo step satisfies all constraints."""
    sides = split(numbers, strongest(numbers, constraints), y)
    result = joined(Op.AND, *(numbers.holds(each.form) for each in sides.rest))
    if result is FALSE or not sides.lowers or not sides.uppers:
        return result
    # quotients of different divisors are hardly ever in a known order: it is not looked for
    above, below = (
        functools.reduce(partial(operated, Op.MIN), dict.fromkeys(_quotient(each, y) for each in bounds))
        for bounds in (sides.lowers, sides.uppers)
    )
    first = below if start is const(0) else operated(Op.SUB, below, start)
    beyond = const(0) if step == 1 else operated(Op.MOD, first, const(step))
    return _lifted(numbers.and_(result, apply(Op.GE, operated(Op.ADD, below, above), beyond)))


def _quotient(bound: Bound, y: Expr) -> Expr:
    """e // factor: the largest y with e - factor * y >= 0, and the negative of the least with factor * y + e >= 0."""
    rest = expression(bound.constraint.form.without(y))
    return rest if bound.factor == ONE else operated(Op.FLOORDIV, rest, expression(bound.factor))


def _lifted(value: object) -> Expr:
    assert isinstance(value, Expr)
    return value

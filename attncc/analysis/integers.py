"""Whether a box of integers holds a solution of linear inequalities, exactly, as an expression.

The constraints are a*q + c*kv + e >= 0 with integers a, c and any e that is the same for the whole box. One variable
is eliminated as in Pugh's Omega test (1991): where a pair of bounds has a coefficient 1, the elimination of Fourier
and Motzkin is exact. Otherwise the *dark shadow* b*f + a*g >= (a - 1)*(b - 1) is enough, and solutions outside it lie
within a known distance above a lower bound: these are finitely many equations, each a congruence for the other
variable. That is then bounded by floor divisions, and the question is whether a number of its residue lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attncc.analysis.linear import Form, expression, is_zero, tightened
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.systems import ONE, Bound, Constraint, Sides, combined, eliminate, given, split, strongest
from attncc.ir import FALSE, TRUE, Expr, Op, const, node
from attncc.ir.expr import Scalar


@dataclass(frozen=True, slots=True)
class Side:
    """One variable of the box and its ends, both included."""

    variable: Expr
    lo: Form
    hi: Form


def has_solution(numbers: ExprNumbers, forms: Sequence[Form], q: Side, kv: Side) -> Expr | None:
    """The condition that some pair of the box satisfies form >= 0 for all forms; None if a form is not linear with
    integer coefficients, or the system grows too large."""
    variables = {q.variable, kv.variable}
    for form in forms:
        if any(len(m) > 1 and variables & set(m) for m in form.terms):
            return None
    ends = [(_plain(s.variable, 1).plus(s.lo, -1), None) for s in (q, kv)]
    ends += [(_plain(s.variable, -1).plus(s.hi), None) for s in (q, kv)]
    constraints = strongest(numbers, given([(tightened(form), None) for form in forms] + ends))
    first, second = sorted((kv.variable, q.variable), key=lambda v: _inexact_pairs(split(numbers, constraints, v)))
    return _by_eliminating(numbers, constraints, first, second)


def _plain(variable: Expr, factor: int) -> Form:
    return Form({(variable,): factor})


def _inexact_pairs(sides: Sides) -> int:
    return sum(a.factor != ONE and b.factor != ONE for a in sides.lowers for b in sides.uppers)


def _by_eliminating(numbers: ExprNumbers, constraints: Sequence[Constraint], x: Expr, y: Expr) -> Expr | None:
    sides = split(numbers, constraints, x)
    if _inexact_pairs(sides) == 0:
        eliminated = eliminate(numbers, constraints, x, 1)
        return None if eliminated is None else _between(numbers, eliminated[0], y)
    dark = list(sides.rest)
    for lower in sides.lowers:
        for upper in sides.uppers:
            slack = (lower.factor.constant - 1) * (upper.factor.constant - 1)
            shadow = _scaled_pair(lower, upper).shifted(-slack)
            dark.append(Constraint(tightened(shadow), lower.constraint.history | upper.constraint.history))
    result = _between(numbers, strongest(numbers, dark), y, prune=False)
    widest = max(upper.factor.constant for upper in sides.uppers)
    for lower in sides.lowers:
        a = lower.factor.constant
        for distance in range((widest * a - widest - a) // widest + 1):
            result = _lifted(numbers.or_(result, _on_line(numbers, constraints, lower, distance, (x, y))))
            if result is TRUE:
                return TRUE
    return result


def _scaled_pair(lower: Bound, upper: Bound) -> Form:
    """b*f + a*g, not divided by a common factor: the dark shadow's slack is meant for this scale."""
    return lower.constraint.form.scaled(upper.factor.constant).plus(upper.constraint.form, lower.factor.constant)


def _on_line(
    numbers: ExprNumbers, constraints: Sequence[Constraint], lower: Bound, distance: int, xy: tuple[Expr, Expr]
) -> Expr:
    """The condition that a solution lies on a*x + b*y + e = distance, where a*x + b*y + e >= 0 is the lower bound."""
    x, y = xy
    a, form = lower.factor.constant, lower.constraint.form
    b = form.terms.get((y,), 0)
    level = form.without(x, y).scaled(-1).shifted(distance)  # a*x + b*y = level
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
        factor = each.form.terms.get((x,), 0)
        rest = each.form.plus(_plain(x, -factor)).scaled(a)
        lines.append(Constraint(rest.plus(level, factor).plus(_plain(y, -factor * b)), each.history))
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
    result = _all(numbers, sides.rest)
    for lower in sides.lowers:
        for upper in sides.uppers:
            history = lower.constraint.history | upper.constraint.history
            if lower.factor != ONE and upper.factor != ONE:
                order = numbers.le(_least(numbers, lower, y), _most(numbers, upper, y))
            elif prune and len(history) > 3:
                continue  # follows from the others: Kohler's rule after two eliminations
            else:
                order = numbers.holds(combined(lower, upper))
            result = _lifted(numbers.and_(result, order))
    return result


def _strided(numbers: ExprNumbers, constraints: Sequence[Constraint], y: Expr, step: int, start: Expr) -> Expr:
    """The condition that some y = start modulo step satisfies all constraints."""
    if step == 1:
        return _between(numbers, strongest(numbers, constraints), y, prune=False)
    sides = split(numbers, strongest(numbers, constraints), y)
    result = _all(numbers, sides.rest)
    if result is FALSE or not sides.lowers or not sides.uppers:
        return result
    least, most = _least(numbers, sides.lowers[0], y), _most(numbers, sides.uppers[0], y)
    for lower in sides.lowers[1:]:
        least = numbers.max(least, _least(numbers, lower, y))
    for upper in sides.uppers[1:]:
        most = numbers.min(most, _most(numbers, upper, y))
    beyond = numbers.mod(numbers.add(most, numbers.neg(start)), const(step))
    return _lifted(numbers.and_(result, numbers.le(least, numbers.add(most, numbers.neg(beyond)))))


def _all(numbers: ExprNumbers, constraints: Sequence[Constraint]) -> Expr:
    result: Expr = TRUE
    for each in constraints:
        result = _lifted(numbers.and_(result, numbers.holds(each.form)))
    return result


def _least(numbers: ExprNumbers, lower: Bound, y: Expr) -> Expr:
    """The least y with factor * y + e >= 0: -(e // factor)."""
    rest = expression(lower.constraint.form.without(y))
    return _lifted(numbers.neg(numbers.floordiv(rest, expression(lower.factor))))


def _most(numbers: ExprNumbers, upper: Bound, y: Expr) -> Expr:
    """The largest y with e - factor * y >= 0: e // factor."""
    rest = expression(upper.constraint.form.without(y))
    return _lifted(numbers.floordiv(rest, expression(upper.factor)))


def _lifted(value: object) -> Expr:
    assert isinstance(value, Expr)
    return value

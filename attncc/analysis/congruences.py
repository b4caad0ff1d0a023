"""Integer points on lines beside a bound: where a shadow leaves gaps between two bounds, solutions can lie only there.

On a line a*x + b*y = level a point has y of one residue modulo a / gcd(a, b), if gcd(a, b) divides the level, and each
other constraint bounds y by a floor division. So a line holds a solution if a number of that residue lies between the
bounds. The lines of one bound differ only in constants: what they share is worked out once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.linear import ONE, Form, expression, form_of, is_zero, operated, shifted
from attncc.analysis.logic import joined
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.systems import Bound, Constraint, combined, given, split
from attncc.ir import FALSE, Expr, Op, apply, const, node
from attncc.ir.expr import Scalar

#: Of more pairs of a lower and an upper bound than this the largest is compared with the least instead.
MAX_PAIRS: Final = 9


@dataclass(frozen=True, slots=True)
class _Row:
    """Constraints with the same terms on each line: rest + factor * y + (constant + growth * distance) // divisor >= 0,
    for the (constant, growth, divisor) of each."""

    rest: Form
    base: Expr
    factor: int
    constants: list[tuple[int, int, int]]

    def constant(self, distance: int) -> int:
        """That of the strongest one."""
        (first, growth, divisor), *rest = self.constants
        least = (first + growth * distance) // divisor
        for constant, growth, divisor in rest:
            least = min(least, (constant + growth * distance) // divisor)
        return least


class Lines:
    """The lines at distances 0, 1 and so on beside a bound a*x + b*y + e >= 0, under all constraints."""

    def __init__(
        self, numbers: ExprNumbers, constraints: Sequence[Constraint], bound: Constraint, xy: tuple[Expr, Expr]
    ) -> None:
        x, y = xy
        form = bound.form
        self.numbers, self.y = numbers, y
        self.sign = 1 if form.terms[x,] > 0 else -1
        a, b = self.sign * form.terms[x,], self.sign * form.terms.get((y,), 0)
        self.level = _others(form, x, y, -self.sign)  # of the line at distance 0: a*x + b*y = level
        self.shared = math.gcd(a, b)
        self.step = a // self.shared
        # b*y = level modulo a, so y = level / shared * (b / shared)**-1 modulo a / shared
        self.inverse = pow(b // self.shared, -1, self.step) if self.step > 1 else 0
        self.start = self.level.scaled(self.inverse)
        self.start_base = _base(self.start)
        rows: dict[object, _Row] = {}
        for each in constraints:
            row = self._row(each.form, xy, (a, b))
            kept = rows.setdefault((row.rest.key(), row.factor), row)
            if kept is not row:
                kept.constants.extend(row.constants)
        self.rows = list(rows.values())

    def _row(self, form: Form, xy: tuple[Expr, Expr], ab: tuple[int, int]) -> _Row:
        """A constraint c*x + d*y + f >= 0 on the line: a * f + c * level + (a*d - c*b) * y >= 0, divided by what the
        coefficients share and rounded."""
        x, y = xy
        a, b = ab
        times = form.terms.get((x,), 0)
        rest = _others(form, x, y, a).plus(self.level, times)
        factor = a * form.terms.get((y,), 0) - times * b
        shared = math.gcd(factor, *rest.terms.values()) or 1
        plain = Form({m: c // shared for m, c in rest.terms.items()} if shared > 1 else rest.terms)
        return _Row(plain, _base(plain), factor // shared, [(rest.constant, times * self.sign, shared)])

    def holds(self, distance: int) -> Expr:
        """The condition that a solution lies on the line at this distance."""
        level = self.level.shifted(self.sign * distance)
        divisible = is_zero(_remainder(level, self.shared))
        if divisible is FALSE:
            return FALSE
        rows = [(row, row.constant(distance)) for row in self.rows]
        if self.step == 1:
            forms = (_with(row.rest, self.y, row.factor, constant) for row, constant in rows)
            return joined(Op.AND, divisible, between(self.numbers, given((form, None) for form in forms), self.y))
        needed = [divisible]
        quotients: tuple[dict[Expr, None], dict[Expr, None]] = ({}, {})
        for row, constant in rows:
            if row.factor:
                factor = row.factor if row.factor > 0 else -row.factor
                quotients[row.factor < 0][_quotient(shifted(row.base, constant), factor)] = None
                continue
            needed.append(self.numbers.holds(Form(row.rest.terms, constant)))
            if needed[-1] is FALSE:
                return FALSE
        if all(quotients):
            needed.append(_holds_one(*quotients, self.step, self._start(level, distance)))
        return joined(Op.AND, *needed)

    def _start(self, level: Form, distance: int) -> Expr:
        """What y is modulo the step."""
        if self.shared == 1 or not self.inverse:
            return shifted(self.start_base, self.start.constant + self.sign * self.inverse * distance)
        n = self.numbers
        found = n.mul(n.floordiv(expression(level), const(self.shared)), const(self.inverse), True)
        assert isinstance(found, Expr)
        return found


def between(numbers: ExprNumbers, constraints: Sequence[Constraint], y: Expr, prune: bool = True) -> Expr:
    """The condition that an integer y satisfies all constraints: each lower bound is at most each upper bound. With
    `prune` those are left out that follow from others by Kohler's rule, after the elimination of two variables."""
    sides = split(numbers, constraints, y)
    needed = [numbers.holds(each.form) for each in sides.rest]
    pairs = [
        (lower, upper)
        for lower in sides.lowers
        for upper in sides.uppers
        if not (prune and ONE in (lower.factor, upper.factor) and _is_far(lower, upper))
    ]
    if FALSE in needed:
        return FALSE
    if len(pairs) > MAX_PAIRS:
        above, below = (dict.fromkeys(_bound(each, y) for each in bounds) for bounds in (sides.lowers, sides.uppers))
        return joined(Op.AND, *needed, _holds_one(above, below, 1, const(0)))
    for lower, upper in pairs:
        if ONE in (lower.factor, upper.factor):
            needed.append(numbers.holds(combined(lower, upper)))
        else:
            needed.append(numbers.holds(form_of(_bound(lower, y)).plus(form_of(_bound(upper, y)))))
        if needed[-1] is FALSE:
            return FALSE
    return joined(Op.AND, *needed)


def _is_far(lower: Bound, upper: Bound) -> bool:
    return len(lower.constraint.history | upper.constraint.history) > 3


def _bound(bound: Bound, y: Expr) -> Expr:
    """e // factor: the largest y with e - factor * y >= 0, and the negative of the least with factor * y + e >= 0."""
    return _quotient(expression(_others(bound.constraint.form, y, y)), bound.factor.constant)


def _quotient(rest: Expr, factor: int) -> Expr:
    if factor == 1:
        return rest
    if rest.op is Op.CONST:
        return operated(Op.FLOORDIV, rest, const(factor))
    return node(Op.FLOORDIV, (rest, const(factor)), None, Scalar.INDEX)


def _holds_one(lowers: Iterable[Expr], uppers: Iterable[Expr], step: int, start: Expr) -> Expr:
    """The condition that some y = start modulo step has y <= each upper and -y <= each lower."""
    # quotients of different divisors are hardly ever in a known order: it is not looked for
    above, below = functools.reduce(_least, lowers), functools.reduce(_least, uppers)
    first = below if start is const(0) else operated(Op.SUB, below, start)
    beyond = const(0) if step == 1 else operated(Op.MOD, first, const(step))
    return apply(Op.GE, operated(Op.ADD, below, above), beyond)


def _least(a: Expr, b: Expr) -> Expr:
    if a.op is b.op is Op.CONST:
        return operated(Op.MIN, a, b)
    return node(Op.MIN, (a, b), None, Scalar.INDEX)


def _others(form: Form, x: Expr, y: Expr, factor: int = 1) -> Form:
    """factor * form without the terms of x and y, which stand in no products."""
    return Form({m: c * factor for m, c in form.terms.items() if m not in ((x,), (y,))}, form.constant * factor)


def _with(rest: Form, y: Expr, factor: int, constant: int) -> Form:
    return Form({**rest.terms, (y,): factor} if factor else rest.terms, constant)


def _base(form: Form) -> Expr:
    """The form without its constant."""
    return expression(Form(form.terms))


def _remainder(form: Form, divisor: int) -> Form:
    """form % divisor as a form: a number where the form is one, an atom otherwise."""
    if divisor == 1:
        return Form({})
    if all(c % divisor == 0 for c in form.terms.values()):
        return Form({}, form.constant % divisor)
    return Form({(node(Op.MOD, (expression(form), const(divisor)), None, Scalar.INDEX),): 1})

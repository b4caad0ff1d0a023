"""Conjunctions of comparisons, solved for kv given a tile of queries, and for q given a tile of keys.

A literal `form >= 0` is linear in positions and in quotients such as q_idx // 64; a remainder is written with its
quotient. Each quotient u = x // d is defined by d*u <= x <= d*u + d - 1. Eliminating everything but one position leaves
its bounds: closed forms in the tile's ends, b, h, sizes and parameters. What cannot be used is left out, so that the
bounds are always wide enough; `exact` says that every position within them is visible to some position of the tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attncc.analysis.bounds import Walk
from attncc.analysis.linear import ONE, Form, atom_form, expression, form_of
from attncc.analysis.logic import literal_form
from attncc.analysis.numbers import Value
from attncc.analysis.shape import side
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.systems import Constraint, Sides, coefficient, eliminate, given, next_variable, sign, split
from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, const, node


@dataclass(frozen=True, slots=True)
class Conjunction:
    """Literals by what can be done with them: `guards` hold for the whole tile or not at all, `forms` are at least 0,
    `others` are decided by intervals only."""

    guards: tuple[Expr, ...]
    forms: tuple[Form, ...]
    others: tuple[Expr, ...]
    literals: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """Where a conjunction can hold along one axis: start <= position < stop, if `when` holds. The full range lies
    within: there every pair with the tile is visible. `lowers` and `uppers` are the bounds behind start and stop, both
    included, and not yet clipped to the sequence."""

    lowers: tuple[Expr, ...]
    uppers: tuple[Expr, ...]
    start: Expr
    stop: Expr
    full_start: Expr
    full_stop: Expr
    when: Expr
    exact: bool


@dataclass(slots=True)
class Remainders:
    """Writes remainders with their quotients, and collects the divisors that are taken to be positive."""

    positive: dict[Expr, None] = field(default_factory=dict)
    written: dict[Expr, Form] = field(default_factory=dict)

    def expanded(self, form: Form) -> Form:
        """The form with x % d as x - d * (x // d), where d is a positive number or one value for all pairs."""
        changed = [m for m in form.terms if any(a.op in (Op.MOD, Op.FLOORDIV) for a in m)]
        total = Form({m: c for m, c in form.terms.items() if m not in changed}, form.constant)
        for monomial in changed:
            product = Form({}, form.terms[monomial])
            for atom in monomial:
                product = product.times(self._atom(atom))
            total = total.plus(product)
        return total

    def _atom(self, atom: Expr) -> Form:
        if atom not in self.written:
            self.written[atom] = self._made(atom)
        return self.written[atom]

    def _made(self, atom: Expr) -> Form:
        if atom.op not in (Op.MOD, Op.FLOORDIV) or not self.is_usable(atom.args[1]):
            return atom_form(atom)
        dividend, divisor = atom.args
        inner = self.expanded(form_of(dividend))
        if atom.op is Op.FLOORDIV:
            return atom_form(atom)
        quotient = node(Op.FLOORDIV, (dividend, divisor), None, Scalar.INDEX)
        return inner.plus(form_of(divisor).times(atom_form(quotient)), -1)

    def is_usable(self, divisor: Expr) -> bool:
        """Whether the divisor is a positive number, or one value for all pairs, then taken to be positive."""
        if divisor.op is Op.CONST:
            return isinstance(divisor.value, int) and divisor.value > 0
        if side(divisor) != "point":
            return False
        self.positive[divisor] = None
        return True


def parse(literals: Sequence[Expr], remainders: Remainders) -> Conjunction:
    """The literals of a conjunction, sorted by what can be done with them."""
    guards: list[Expr] = []
    forms: list[Form] = []
    others: list[Expr] = []
    for each in literals:
        found = literal_form(each)
        if side(each) == "point":
            guards.append(each)
        elif found is None or found[0] is Op.NE:
            others.append(each)
        else:
            form = remainders.expanded(found[1])
            forms += [form] if found[0] is Op.GE else [form, form.scaled(-1)]
    return Conjunction(tuple(guards), tuple(forms), tuple(others), tuple(literals))


def is_linear(form: Form) -> bool:
    """Whether the form is a*q_idx + c*kv_idx + e with integers a, c and an e that is the same for the whole tile."""
    return all(m in ((Q_IDX,), (KV_IDX,)) or all(side(atom) == "point" for atom in m) for m in form.terms)


def unfloored(form: Form, which: Sequence[str], remainders: Remainders) -> Form:
    """An equivalent literal without a quotient of the given sides: x // d + r >= 0 is x + d*r >= 0, and
    r - x // d >= 0 is d*r + d - 1 - x >= 0."""
    for atom in form.atoms():
        factor = form.coefficient(atom)
        if atom.op is not Op.FLOORDIV or side(atom) not in which or factor not in (1, -1):
            continue
        if not remainders.is_usable(atom.args[1]):
            continue
        dividend, divisor = remainders.expanded(form_of(atom.args[0])), form_of(atom.args[1])
        scaled = form.without(atom).times(divisor)
        changed = scaled.plus(dividend) if factor == 1 else scaled.plus(divisor).shifted(-1).plus(dividend, -1)
        return unfloored(changed, which, remainders)
    return form


class Axis:
    """Solving for one position, `target`, given a tile of the other, within one walk."""

    def __init__(self, target: Expr, walk: Walk, numbers: ExprNumbers, remainders: Remainders, size: Expr) -> None:
        self.target = target
        self.other = Q_IDX if target is KV_IDX else KV_IDX
        self.target_side, self.other_side = ("kv", "q") if target is KV_IDX else ("q", "kv")
        self.walk = walk
        self.numbers = numbers
        self.remainders = remainders
        self.size = size

    def project(self, conjunction: Conjunction, full: bool = True) -> Projection:
        """The range of the target that a conjunction can reach, and, if asked for, the one in which it holds
        throughout."""
        constraints, exact = self._solved(conjunction)
        sides = split(self.numbers, constraints, self.target)
        conditions = [*conjunction.guards, *(self.numbers.holds(rest.form) for rest in sides.rest)]
        bounds = self._bounds(sides)
        start, stop = self._range(*bounds)
        full = full and not self._is_thin(conjunction.forms)
        full_start, full_stop = self._full(conjunction, start, stop) if full else (const(0), const(0))
        when = self.numbers.all_of(conditions)
        exact = exact and sides.complete and not conjunction.others
        return Projection(*bounds, start, stop, full_start, full_stop, when, exact)

    def _is_thin(self, forms: Sequence[Form]) -> bool:
        """Whether an equation leaves at most one target for each position: a full range would hold one at most."""
        mine = [form for form in forms if (self.target,) in form.terms and is_linear(form)]
        keys = {(form.key(), form.constant) for form in mine}
        return any((opposite.key(), opposite.constant) in keys for opposite in (form.scaled(-1) for form in mine))

    def bounds(self, conjunction: Conjunction) -> list[Constraint]:
        """What follows of the target from a conjunction, with the steps that lead there."""
        return self._solved(conjunction)[0]

    def _bounds(self, sides: Sides) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """The least and the largest target that each constraint allows."""
        n = self.numbers
        lowers: list[Expr] = []
        uppers: list[Expr] = []
        for lower in sides.lowers:  # the least t with factor * t + e >= 0 is -(e // factor)
            rest = expression(lower.constraint.form.plus(lower.factor.times(atom_form(self.target)), -1))
            lowers.append(n.neg(n.floordiv(rest, expression(lower.factor))))
        for upper in sides.uppers:  # the largest t with e - factor * t >= 0 is e // factor
            rest = expression(upper.constraint.form.plus(upper.factor.times(atom_form(self.target))))
            uppers.append(n.floordiv(rest, expression(upper.factor)))
        return tuple(lowers), tuple(uppers)

    def _range(self, lowers: Iterable[Expr], uppers: Iterable[Expr]) -> tuple[Expr, Expr]:
        """start and stop, half-open and inside the sequence."""
        n = self.numbers
        stops = [_lifted(n.add(upper, const(1))) for upper in reversed(tuple(uppers))]
        return n.largest((const(0), *lowers)), n.least((*stops, self.size))

    def _solved(self, conjunction: Conjunction) -> tuple[list[Constraint], bool]:
        """The constraints on the target alone."""
        constraints, variables = self._system(conjunction.forms)
        exact = sum(side(each) == self.other_side for each in variables) <= 1
        exact = exact and all(self._is_gapless(each) for each in variables)
        for count in range(1, len(variables) + 1):
            variable = next_variable(self.numbers, constraints, variables)
            variables.remove(variable)
            eliminated = eliminate(self.numbers, constraints, variable, count, not variables)
            if eliminated is None:  # too large: nothing is known of the target
                return [], False
            constraints, exact = eliminated[0], exact and eliminated[1]
        usable = [c for c in constraints if all(side(a) == "point" or a is self.target for a in c.form.atoms())]
        return usable, exact and len(usable) == len(constraints)

    def _is_gapless(self, variable: Expr) -> bool:
        """Whether the variable takes every integer between its bounds in a tile of the other position."""
        if variable is self.other:
            return True
        if variable.op is not Op.FLOORDIV or not self.remainders.is_usable(variable.args[1]):
            return False
        if side(variable) != self.other_side:
            return True  # its definition is among the constraints
        step = coefficient(form_of(variable.args[0]), self.other)
        return step in (ONE, ONE.scaled(-1))

    def _system(self, forms: Sequence[Form]) -> tuple[list[Constraint], list[Expr]]:
        """The constraints with the definitions of quotients and the ends of the tile, and what must be eliminated."""
        rows: list[tuple[Form, Expr | None]] = [(form, None) for form in forms]
        variables: dict[Expr, None] = {}
        pending = [atom for form in forms for atom in form.atoms()]
        while pending:
            atom = pending.pop(0)
            if side(atom) == "point" or atom is self.target or atom in variables:
                continue
            variables[atom] = None
            if side(atom) == self.other_side:
                rows += self._ends(atom)
            elif atom.op is Op.FLOORDIV and self.remainders.is_usable(atom.args[1]):
                dividend, divisor = self.remainders.expanded(form_of(atom.args[0])), form_of(atom.args[1])
                multiple = divisor.times(atom_form(atom))
                rows += [
                    (dividend.plus(multiple, -1), atom),
                    (multiple.plus(divisor).shifted(-1).plus(dividend, -1), atom),
                ]
                pending += dividend.atoms()
        return given(rows), list(variables)

    def _ends(self, atom: Expr) -> list[tuple[Form, Expr | None]]:
        """lo <= atom <= hi over the tile of the other position, as far as they are known."""
        found = self.walk.interval(atom)
        if found.nan is not False and self.numbers.known(found.nan) is not False:
            return []
        rows: list[tuple[Form, Expr | None]] = []
        if found.lo.scalar is Scalar.INDEX:
            rows.append((atom_form(atom).plus(form_of(found.lo), -1), None))
        if found.hi.scalar is Scalar.INDEX:
            rows.append((form_of(found.hi).plus(atom_form(atom), -1), None))
        return rows

    def _full(self, conjunction: Conjunction, start: Expr, stop: Expr) -> tuple[Expr, Expr]:
        """The range in which the conjunction holds for every position of the tile; empty where it is not found."""
        rows = [self._worst(form) for form in conjunction.forms]
        found = [row for row in rows if row is not None]
        sides = split(self.numbers, given((row, None) for row in found), self.target)
        if conjunction.others or len(found) < len(rows) or not sides.complete:
            return const(0), const(0)
        n = self.numbers
        lo, hi = self._range(*self._bounds(sides))
        throughout = n.all_of(n.holds(rest.form) for rest in sides.rest)
        return n.max(start, lo), n.where(throughout, n.min(hi, stop), const(0))

    def _worst(self, form: Form) -> Form | None:
        """The least value of the form over the tile, as a form in the target; None where it is not known."""
        form = unfloored(form, (self.target_side, "pair"), self.remainders)
        for atom in form.atoms():
            if side(atom) == "pair" or (side(atom) == self.target_side and atom is not self.target):
                return None
            if side(atom) != self.other_side:
                continue
            factor = coefficient(form, atom)
            direction = None if factor is None else sign(self.numbers, factor)
            if factor is None or direction is None:
                return None
            found = self.walk.interval(atom)
            end = found.lo if direction > 0 else found.hi
            if self.numbers.known(self.numbers.or_(found.nan, False)) is not False or end.scalar is not Scalar.INDEX:
                return None
            form = form.plus(factor.times(atom_form(atom)), -1).plus(factor.times(form_of(end)))
        return form


def _lifted(value: Value) -> Expr:
    assert isinstance(value, Expr)
    return value

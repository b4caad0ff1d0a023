"""A mask as `and` and `or` over literals, and as a union of conjunctions.

`abs`, `min`, `max` and `where` inside a comparison become cases: abs(x) < w is x < w and -x < w. So does a Bool that is
counted as 0 or 1, and a comparison of an int, cast to Float, with a constant. What remains in a literal is a sum of
products of positions, sizes, parameters, `//`, `%` and captured values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from attncc.analysis.interval import FLOAT32_EXACT
from attncc.analysis.linear import Form, atom_form, form_of, tightened
from attncc.analysis.logic import joined, literal, literal_form, negated, parts
from attncc.analysis.shape import side
from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, const, node

#: Comparisons beyond this many are kept whole: their cases would double each time.
MAX_LITERALS: Final = 400
#: A union of more conjunctions than this is not made.
MAX_TERMS: Final = 96
_FLIPPED: Final = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE, Op.EQ: Op.EQ, Op.NE: Op.NE}
_CASES: Final = frozenset({Op.ABS, Op.MIN, Op.MAX, Op.WHERE, Op.CAST})


def normal_condition(mask: Expr) -> Expr:
    """The condition in negation normal form, with the cases inside comparisons drawn out; iterative."""
    return _Normal().run(mask)


class _Normal:
    """One run: remembers the normal form of each condition."""

    def __init__(self) -> None:
        self.done: dict[Expr, Expr] = {}
        self.forms: dict[Expr, Form] = {}
        self.literals = 0

    def run(self, root: Expr) -> Expr:
        stack = [root]
        while stack:
            expr = stack[-1]
            if expr in self.done:
                stack.pop()
                continue
            cases = self._cases(expr)
            whole = expr if cases is None else cases
            pending = (
                [] if whole.op not in (Op.AND, Op.OR) else [a for a in parts(whole.op, whole) if a not in self.done]
            )
            if cases is not None and whole.op not in (Op.AND, Op.OR) and whole not in self.done and whole is not expr:
                pending = [whole]
            if pending:
                stack.extend(reversed(pending))
            else:
                self.done[stack.pop()] = self._assembled(whole, expr)
        return self.done[root]

    def _assembled(self, whole: Expr, expr: Expr) -> Expr:
        if whole.op in (Op.AND, Op.OR):
            return joined(whole.op, *(self.done[part] for part in parts(whole.op, whole)))
        return expr if whole is expr else self.done[whole]

    def _cases(self, expr: Expr) -> Expr | None:
        """The condition one step simpler, or None for a literal in its last form, AND and OR."""
        match expr.op:
            case Op.AND | Op.OR | Op.CONST:
                return None
            case Op.NOT:
                turned = negated(expr.args[0])
                return self._inside_not(expr) if turned is expr else turned
            case Op.XOR:
                a, b = expr.args
                return _or(_and(a, negated(b)), _and(negated(a), b))
            case Op.WHERE:
                c, a, b = expr.args
                return _or(_and(c, a), _and(negated(c), b))
            case _:
                return self._comparison(expr)

    def _inside_not(self, expr: Expr) -> Expr | None:
        """not x, where x is not a literal: the cases of x, turned round."""
        inner = expr.args[0]
        cases = None if inner.op in (Op.AND, Op.OR) else self._cases(inner)
        return None if cases is None else negated(cases)

    def _comparison(self, expr: Expr) -> Expr | None:
        if expr.op not in _FLIPPED:
            return None
        a, b = expr.args
        if a.scalar is Scalar.BOOL:
            same = _or(_and(a, b), _and(negated(a), negated(b)))
            return same if expr.op is Op.EQ else negated(same)
        if a.scalar is Scalar.FLOAT:
            return _as_integers(expr.op, a, b)
        found = literal_form(expr)
        assert found is not None
        self.literals += 1
        split = _split(*found) if self.literals <= MAX_LITERALS else None
        spelled = literal(*found) if split is None else split
        return None if spelled is expr else spelled


def _or(a: Expr, b: Expr) -> Expr:
    return joined(Op.OR, a, b)


def _and(a: Expr, b: Expr) -> Expr:
    return joined(Op.AND, a, b)


def _as_integers(op: Op, a: Expr, b: Expr) -> Expr | None:
    """A Float comparison of an int with a constant, as a comparison of ints: the cast is exact up to 2**24."""
    if a.op is Op.CONST and b.op is not Op.CONST:
        op, a, b = _FLIPPED[op], b, a
    if a.op is not Op.CAST or a.args[0].scalar is not Scalar.INDEX or b.op is not Op.CONST:
        return None
    limit = b.value
    if not isinstance(limit, float) or not abs(limit) < FLOAT32_EXACT or limit * 256 != int(limit * 256):
        return None
    whole = int(limit) == limit
    if op in (Op.EQ, Op.NE) and not whole:
        return const(op is Op.NE)
    rounded = math.ceil(limit) if op in (Op.LT, Op.GE) else math.floor(limit)
    return apply(op, a.args[0], const(rounded))


def _split(op: Op, form: Form) -> Expr | None:
    """The cases of a literal whose form has an abs, min, max or where as a term; None if it has none."""
    for monomial, coefficient in form.ordered():
        atom = monomial[0]
        if (
            len(monomial) > 1
            or atom.op not in _CASES
            or (atom.op is Op.CAST and atom.args[0].scalar is not Scalar.BOOL)
        ):
            continue
        rest = form.plus(atom_form(atom), -coefficient)
        if atom.op is Op.CAST:
            return _choice(op, rest, coefficient, atom.args[0], const(1), const(0))
        if atom.op is Op.WHERE:
            return _choice(op, rest, coefficient, *atom.args)
        if op is not Op.GE:  # x == 0 is x >= 0 and -x >= 0
            both = _and(literal(Op.GE, form), literal(Op.GE, form.scaled(-1)))
            return both if op is Op.EQ else negated(both)
        return _extreme(rest, coefficient, atom)
    return None


def _choice(op: Op, rest: Form, coefficient: int, condition: Expr, a: Expr, b: Expr) -> Expr:
    first = literal(op, rest.plus(form_of(a), coefficient))
    second = literal(op, rest.plus(form_of(b), coefficient))
    return _or(_and(condition, first), _and(negated(condition), second))


def _extreme(rest: Form, coefficient: int, atom: Expr) -> Expr:
    """rest + coefficient * max(a, b) >= 0 holds for one of a, b, or for both where the coefficient is negative."""
    a = form_of(atom.args[0])
    b = a.scaled(-1) if atom.op is Op.ABS else form_of(atom.args[1])
    either = (coefficient > 0) == (atom.op is not Op.MIN)
    return joined(Op.OR if either else Op.AND, *(literal(Op.GE, rest.plus(x, coefficient)) for x in (a, b)))


def conjunctions(condition: Expr, limit: int = MAX_TERMS) -> list[list[Expr]] | None:
    """The normal condition as a union of conjunctions of literals, empty ones left out; None if there are more than
    `limit`."""
    done: dict[Expr, list[list[Expr]] | None] = {}
    stack = [condition]
    while stack:
        expr = stack[-1]
        operands = parts(expr.op, expr) if expr.op in (Op.AND, Op.OR) else []
        pending = [part for part in operands if part not in done]
        if expr in done:
            stack.pop()
        elif pending:
            stack.extend(reversed(pending))
        else:
            done[stack.pop()] = _union(expr, [done[part] for part in operands], limit)
    return done[condition]


def _union(expr: Expr, operands: Sequence[list[list[Expr]] | None], limit: int) -> list[list[Expr]] | None:
    if any(each is None for each in operands):
        return None
    if expr.op is Op.OR:
        return _pruned([term for each in operands if each is not None for term in each], limit)
    if expr.op is not Op.AND:
        return [] if expr is FALSE else [[]] if expr is TRUE else _literal_terms(expr)
    product: list[list[Expr]] = [[]]
    for each in operands:
        product = [left + right for left in product for right in each or []]
        if len(product) > 4 * limit:
            return None
        pruned = _pruned(product, limit)
        if pruned is None:
            return None
        product = pruned
    return product


def _literal_terms(expr: Expr) -> list[list[Expr]]:
    """A literal as a union: x != 0 is x > 0 or x < 0."""
    found = literal_form(expr)
    if found is None or found[0] is not Op.NE or side(expr) == "point":
        return [[expr]]
    form = found[1]
    return [[literal(Op.GE, form.shifted(-1))], [literal(Op.GE, form.scaled(-1).shifted(-1))]]


def _pruned(terms: list[list[Expr]], limit: int) -> list[list[Expr]] | None:
    """The conjunctions without repetitions, without contradictions, without those that another one contains."""
    kept: list[list[Expr]] = []
    for term in terms:
        literals = parts(Op.AND, joined(Op.AND, *term))
        if literals == [FALSE] or _is_contradictory(literals):
            continue
        kept.append([] if literals == [TRUE] else literals)
    sets = [set(term) for term in kept]
    unique = [
        t for i, t in enumerate(kept) if not any(s < sets[i] or (s == sets[i] and j < i) for j, s in enumerate(sets))
    ]
    return unique if len(unique) <= limit else None


def _is_contradictory(literals: Sequence[Expr]) -> bool:
    """Whether two bounds on one form leave no integer between them."""
    lowest: dict[object, int] = {}
    for expr in literals:
        found = literal_form(expr)
        if found is None or found[0] is Op.NE:
            continue
        for form in (found[1],) if found[0] is Op.GE else (found[1], found[1].scaled(-1)):
            lowest[_key(form)] = min(lowest.get(_key(form), 2**200), tightened(form).constant)
            opposite = lowest.get(_key(form.scaled(-1)))
            if opposite is not None and opposite + lowest[_key(form)] < 0:
                return True
    return False


def _key(form: Form) -> object:
    return tightened(form).key()


def conjunction_of(literals: Sequence[Expr]) -> Expr:
    """The literals as one condition."""
    result = TRUE
    for each in literals:
        result = each if result is TRUE else node(Op.AND, (result, each), None, Scalar.BOOL)
    return result

"""Conditions in negation normal form: `and` and `or` over literals, `not` only before what cannot be turned round.

A literal is a comparison of two Index expressions, kept as `form >= 0`, `form == 0` or `form != 0`; anything else Bool
(a comparison of Floats, a captured Bool) stays as it is, under `not` where it was negated: a comparison with NaN is
false, and so is the one turned round.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Final

from attncc.analysis.linear import Form, at_least_zero, difference, is_zero, tightened
from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, const, node

_TURNED: Final = {Op.LT: Op.GE, Op.LE: Op.GT, Op.GT: Op.LE, Op.GE: Op.LT, Op.EQ: Op.NE, Op.NE: Op.EQ}
_DUAL: Final = {Op.AND: Op.OR, Op.OR: Op.AND}
#: Conjunctions of more parts than this are not searched for repetitions.
MAX_PARTS: Final = 40


_FORMS: weakref.WeakKeyDictionary[Expr, tuple[Op, Form]] = weakref.WeakKeyDictionary()


def literal_form(expr: Expr) -> tuple[Op, Form] | None:
    """(GE, EQ or NE, form) for a comparison of Index expressions: it means that form is so to 0. None for others.

    Remembered for each node; a form holds parts of the comparison only, so that it can be forgotten with it.
    """
    if expr.op not in _TURNED or expr.args[0].scalar is not Scalar.INDEX:
        return None
    found = _FORMS.get(expr)
    if found is None:
        found = _FORMS[expr] = _compared(expr)
    return found


def _compared(expr: Expr) -> tuple[Op, Form]:
    left, right = expr.args
    match expr.op:
        case Op.GE:
            return Op.GE, difference(left, right)
        case Op.GT:
            return Op.GE, difference(left, right).shifted(-1)
        case Op.LE:
            return Op.GE, difference(right, left)
        case Op.LT:
            return Op.GE, difference(right, left).shifted(-1)
        case _:
            return expr.op, difference(left, right)


def literal(op: Op, form: Form) -> Expr:
    """The comparison of a form with 0, in its one spelling."""
    if op is Op.GE:
        return at_least_zero(form)
    equal = is_zero(_led(form))
    return equal if op is Op.EQ else negated(equal)


def _led(form: Form) -> Form:
    """The form, or its negative, so that the first coefficient is positive."""
    ordered = form.ordered()
    return form.scaled(-1) if ordered and ordered[0][1] < 0 else form


def negated(expr: Expr) -> Expr:
    """The opposite condition, `not` pushed inward; iterative."""
    done: dict[Expr, Expr] = {}
    stack = [expr]
    while stack:
        current = stack[-1]
        pending = [a for a in current.args if a not in done] if current.op in _DUAL else []
        if current in done:
            stack.pop()
        elif pending:
            stack.extend(pending)
        else:
            done[stack.pop()] = _negated_once(current, done)
    return done[expr]


def _negated_once(expr: Expr, done: dict[Expr, Expr]) -> Expr:
    if expr.op in _DUAL:
        return node(_DUAL[expr.op], tuple(done[arg] for arg in expr.args), None, Scalar.BOOL)
    if expr.op is Op.CONST:
        return const(not expr.value)
    if expr.op is Op.NOT:
        return expr.args[0]
    found = literal_form(expr)
    if found is not None and found[0] is Op.GE:
        return at_least_zero(found[1].scaled(-1).shifted(-1))
    if found is not None:
        return apply(_TURNED[expr.op], *expr.args)
    return apply(Op.NOT, expr)


def parts(op: Op, expr: Expr) -> list[Expr]:
    """The operands of a nest of AND (or OR), left to right, each once; iterative."""
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = [expr]
    while stack:
        current = stack.pop()
        if current.op is not op:
            found[current] = None
        elif current not in seen:
            seen.add(current)
            stack.extend(reversed(current.args))
    return list(found)


def joined(op: Op, *conditions: Expr) -> Expr:
    """The AND (or OR) of conditions without repetitions; of two bounds on one form the one that decides is kept."""
    flat = list(dict.fromkeys(part for condition in conditions for part in parts(op, condition)))
    stop, neutral = (FALSE, TRUE) if op is Op.AND else (TRUE, FALSE)
    if stop in flat:
        return stop
    flat = [part for part in flat if part is not neutral]
    if len(flat) <= MAX_PARTS:
        decided = _decided(op, flat)
        if decided is None:
            return stop
        flat = decided
    return _chain(op, flat, neutral)


def _chain(op: Op, flat: Iterable[Expr], neutral: Expr) -> Expr:
    result = neutral
    for part in flat:
        result = part if result is neutral else node(op, (result, part), None, Scalar.BOOL)
    return result


def _decided(op: Op, flat: list[Expr]) -> list[Expr] | None:
    """Of several `form + c >= 0` with one form the strongest (for OR the weakest), at the first one's place; None
    where two parts exclude each other (for OR: leave nothing out)."""
    bounds: dict[object, tuple[Form, bool]] = {}
    kept: list[tuple[object, Expr]] = []
    for part in flat:
        found = literal_form(part)
        if found is None or found[0] is not Op.GE:
            if part.op not in _DUAL and negated(part) in flat:
                return None
            kept.append((None, part))
            continue
        form = tightened(found[1])
        key, opposite = form.key(), form.scaled(-1).key()
        if key not in bounds:
            kept.append((key, part))
            bounds[key] = (form, False)
        elif (form.constant < bounds[key][0].constant) == (op is Op.AND) and form.constant != bounds[key][0].constant:
            bounds[key] = (form, True)
        if opposite in bounds:  # f + c >= 0 and c' - f >= 0: nothing lies between if c + c' < 0, everything if >= -1
            room = bounds[key][0].constant + bounds[opposite][0].constant
            if (room < 0) if op is Op.AND else (room >= -1):
                return None
    return [at_least_zero(bounds[key][0]) if key is not None and bounds[key][1] else part for key, part in kept]

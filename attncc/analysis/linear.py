"""Integer expressions as sums of products: the normal form in which differences cancel.

`q_idx - kv_idx`, `-(kv_idx - q_idx)` and `q_idx + 1 - kv_idx - 1` have one `Form`. What is not a sum or a product
(`//`, `%`, `abs`, a captured value) is an atom. Index arithmetic is exact, so rearranging it changes nothing; Floats
round and are never rearranged.
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from attncc.ir import Expr, Op, Scalar, apply, const, node, postorder

#: A product of atoms, in the order of `sort_key`; the empty product is 1.
Monomial = tuple[Expr, ...]
#: Sums that would grow beyond this many terms stay as they are written.
MAX_TERMS: Final = 48
LINEAR_OPS: Final = frozenset({Op.ADD, Op.SUB, Op.NEG, Op.MUL, Op.SHIFT_LEFT})
_LEAF_ORDER: Final = {name: i for i, name in enumerate(("q_idx", "kv_idx", "q_max", "q_min", "kv_max", "kv_min"))}

_KEYS: weakref.WeakKeyDictionary[Expr, str] = weakref.WeakKeyDictionary()
#: Those of positions and of tiles' ends, which are looked for most.
_FIXED: dict[Expr, str] = {}


def sort_key(expr: Expr) -> str:
    """A text that orders expressions the same way in every process; equal only for equal expressions."""
    found = _FIXED.get(expr)
    if found is not None:
        return found
    found = _KEYS.get(expr)
    if found is not None:
        return found
    for each in postorder(expr):
        if each not in _KEYS:
            _KEYS[each] = _key(each)
    found = _KEYS[expr]
    if expr.op is Op.INPUT or (not expr.args and expr.value in _LEAF_ORDER):
        _FIXED[expr] = found
    return found


def _key(expr: Expr) -> str:
    if not expr.args and expr.op is not Op.LOAD:
        rank = _LEAF_ORDER.get(str(expr.value), 99)
        return f"{rank:02d} {expr.op.value} {expr.value!r} {expr.scalar}"
    text = "\n".join((expr.op.value, repr(expr.value), str(expr.scalar), *(_KEYS[arg] for arg in expr.args)))
    return "~" + expr.op.value + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Form:
    """constant + sum of coefficient * product of atoms; no coefficient is 0, and the products differ."""

    terms: Mapping[Monomial, int]
    constant: int = 0

    def plus(self, other: Form, factor: int = 1) -> Form:
        """self + factor * other."""
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            total = terms.pop(monomial, 0) + factor * coefficient
            if total:
                terms[monomial] = total
        return Form(terms, self.constant + factor * other.constant)

    def times(self, other: Form) -> Form:
        """self * other, multiplied out."""
        if not (self.terms and other.terms):
            return other.scaled(self.constant) if other.terms else self.scaled(other.constant)
        terms: dict[Monomial, int] = {}
        for left, a in [*self.terms.items(), ((), self.constant)]:
            for right, b in [*other.terms.items(), ((), other.constant)]:
                product = tuple(sorted(left + right, key=sort_key)) if left and right else left or right
                terms[product] = terms.get(product, 0) + a * b
        constant = terms.pop((), 0)
        return Form({m: c for m, c in terms.items() if c}, constant)

    def scaled(self, factor: int) -> Form:
        """factor * self."""
        if factor == 0:
            return Form({})
        return Form({m: c * factor for m, c in self.terms.items()}, self.constant * factor)

    def shifted(self, offset: int) -> Form:
        """self + offset."""
        return Form(self.terms, self.constant + offset)

    @property
    def content(self) -> int:
        """The greatest common divisor of the coefficients, without the constant; 0 for a constant."""
        return math.gcd(*self.terms.values()) if self.terms else 0

    def atoms(self) -> list[Expr]:
        """Every atom once, in the order of `sort_key`."""
        if len(self.terms) == 1:
            (monomial,) = self.terms
            if len(monomial) == 1:
                return [monomial[0]]
        return sorted({atom for monomial in self.terms for atom in monomial}, key=sort_key)

    def ordered(self) -> list[tuple[Monomial, int]]:
        """The terms in a fixed order."""
        if len(self.terms) <= 1:
            return list(self.terms.items())
        if max(map(len, self.terms)) == 1:
            return sorted(self.terms.items(), key=_first_key)
        return sorted(self.terms.items(), key=lambda item: [sort_key(atom) for atom in item[0]])

    def coefficient(self, atom: Expr) -> int | None:
        """How often the atom counts; None where it stands in a product with another."""
        if any(atom in monomial and len(monomial) > 1 for monomial in self.terms):
            return None
        return self.terms.get((atom,), 0)

    def without(self, *atoms: Expr) -> Form:
        """The terms in which none of the atoms stands, and the constant."""
        return Form({m: c for m, c in self.terms.items() if not any(a in m for a in atoms)}, self.constant)

    def key(self) -> frozenset[tuple[Monomial, int]]:
        """A hashable key of the terms without the constant."""
        return frozenset(self.terms.items())


def _first_key(term: tuple[Monomial, int]) -> str:
    return sort_key(term[0][0])


ONE: Final = Form({}, 1)


def atom_form(expr: Expr) -> Form:
    """The form that is one atom."""
    return Form({(expr,): 1})


def form_of(expr: Expr, memo: dict[Expr, Form] | None = None) -> Form:
    """The form of an Index expression. Iterative; `memo` is shared between calls."""
    if not _parts(expr):
        return _combined(expr, {})
    done: dict[Expr, Form] = {} if memo is None else memo
    stack = [expr]
    while stack:
        current = stack[-1]
        pending = [a for a in _parts(current) if a not in done]
        if current in done:
            stack.pop()
        elif pending:
            stack.extend(pending)
        else:
            done[stack.pop()] = _combined(current, done)
    return done[expr]


def difference(left: Expr, right: Expr, memo: dict[Expr, Form] | None = None) -> Form:
    """left - right."""
    return form_of(left, memo).plus(form_of(right, memo), -1)


def _parts(expr: Expr) -> tuple[Expr, ...]:
    return expr.args if expr.op in LINEAR_OPS and expr.scalar is Scalar.INDEX else ()


def _combined(expr: Expr, done: Mapping[Expr, Form]) -> Form:
    if expr.op is Op.CONST:
        assert isinstance(expr.value, int)
        return Form({}, expr.value)
    if expr.op not in LINEAR_OPS:
        return atom_form(expr)
    made = _COMBINE[expr.op](*(done[arg] for arg in expr.args))
    return made if len(made.terms) <= MAX_TERMS else atom_form(expr)


_COMBINE: Final[dict[Op, Callable[..., Form]]] = {
    Op.ADD: lambda a, b: a.plus(b),
    Op.SUB: lambda a, b: a.plus(b, -1),
    Op.NEG: lambda a: a.scaled(-1),
    Op.MUL: lambda a, b: a.times(b),
    Op.SHIFT_LEFT: lambda a, b: a.scaled(2**b.constant),
}


def expression(form: Form) -> Expr:
    """The form as an expression: positive terms first, then what is subtracted, the constant last."""
    ordered = form.ordered()
    result: Expr | None = None
    for monomial, coefficient in [t for t in ordered if t[1] > 0] + [t for t in ordered if t[1] < 0]:
        term = _term(monomial, abs(coefficient))
        if result is None:
            result = term if coefficient > 0 else _raw(Op.NEG, term)
        else:
            result = _raw(Op.ADD if coefficient > 0 else Op.SUB, result, term)
    return const(form.constant) if result is None else shifted(result, form.constant)


def shifted(base: Expr, constant: int) -> Expr:
    """base + constant, the constant last; of a form's expression that of the form with it."""
    if base.op is Op.CONST:
        assert isinstance(base.value, int)
        return const(base.value + constant)
    if constant < 0:
        return node(Op.SUB, (base, const(-constant)), None, Scalar.INDEX)
    return node(Op.ADD, (base, const(constant)), None, Scalar.INDEX) if constant else base


def _term(monomial: Monomial, coefficient: int) -> Expr:
    product = monomial[0]
    for atom in monomial[1:]:
        product = _raw(Op.MUL, product, atom)
    return product if coefficient == 1 else _raw(Op.MUL, const(coefficient), product)


def _raw(op: Op, *args: Expr) -> Expr:
    return node(op, args, None, Scalar.INDEX)


def operated(op: Op, a: Expr, b: Expr) -> Expr:
    """The operation on two Index expressions, folded where both are constants."""
    return apply(op, a, b) if a.op is b.op is Op.CONST else _raw(op, a, b)


def at_least_zero(form: Form) -> Expr:
    """The Bool expression form >= 0, with what is subtracted on the other side: `q_max >= kv_min`."""
    return _sides(form, Op.GE, Op.GT)


def is_zero(form: Form) -> Expr:
    """The Bool expression form == 0, with what is subtracted on the other side."""
    if not form.terms:
        return const(form.constant == 0)
    if form.constant and form.constant % form.content:
        return const(False)
    divided = Form({m: c // form.content for m, c in form.terms.items()}, form.constant // form.content)
    return _sides(divided, Op.EQ, Op.EQ)


def _sides(form: Form, op: Op, strict: Op) -> Expr:
    """left `op` right with all signs positive; a constant of -1 becomes the strict comparison."""
    if not form.terms:
        return const(form.constant >= 0)
    if op is Op.GE:
        form = tightened(form)
    left = Form({m: c for m, c in form.terms.items() if c > 0}, max(form.constant, 0))
    right = Form({m: -c for m, c in form.terms.items() if c < 0}, max(-form.constant, 0))
    if op is Op.GE and form.constant == -1:
        op, right = strict, Form(right.terms)
    return apply(op, expression(left), expression(right))


def tightened(form: Form) -> Form:
    """The form over the gcd of its coefficients: form >= 0 holds for the same integers."""
    divisor = form.content
    if divisor <= 1:
        return form
    return Form({m: c // divisor for m, c in form.terms.items()}, form.constant // divisor)

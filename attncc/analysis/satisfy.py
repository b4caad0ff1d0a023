"""Proofs that a condition never holds, and searches for numbers with which it does.

A proof writes the condition as a union of conjunctions and eliminates every variable (positions, ends of tiles, sizes,
parameters) from each one: what is left is a sum of its inequalities, with positive factors, that reads `number >= 0`
for a negative number. Where whole numbers are needed, an inequality is divided by the common factor of its coefficients
and rounded. Each proof can be read: it lists the inequalities and the sum. A search tries small numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.affine import Remainders
from attncc.analysis.compiled import names_of
from attncc.analysis.conditions import conjunctions, normal_condition
from attncc.analysis.linear import Form, atom_form, form_of
from attncc.analysis.logic import literal_form
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN
from attncc.ir import BATCH, HEADS, KV_IDX, KV_LEN, Q_IDX, Q_LEN, B, Expr, H, Op, apply, const, postorder

#: Inequalities that hold in every call: (smaller, larger, distance): smaller + distance <= larger.
ALWAYS: Final = (
    *((const(0), each, 0) for each in (B, H, Q_IDX, KV_IDX, Q_MIN, KV_MIN)),
    (B, BATCH, 1),
    (H, HEADS, 1),
    (Q_IDX, Q_LEN, 1),
    (KV_IDX, KV_LEN, 1),
    (Q_MIN, Q_MAX, 0),
    (KV_MIN, KV_MAX, 0),
    (Q_MAX, Q_LEN, 1),
    (KV_MAX, KV_LEN, 1),
)
#: Numbers that a search tries for parameters.
TRIED: Final = (0, 1, 2, 3, 4, 5, 7, 8, -1, 16, 64)
#: Conjunctions and inequalities beyond which a proof is given up.
MAX_CASES: Final = 32
MAX_ROWS: Final = 80
#: Constants of a condition up to this are tried as sizes and positions.
LARGEST_CONSTANT: Final = 1 << 20
#: Sizes that a search tries.
SIZES: Final = (1, 2, 3, 5, 8, 13, 24)


@dataclass(frozen=True, slots=True)
class Row:
    """An inequality form >= 0 and how often each given inequality went into it."""

    form: Form
    shares: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why a conjunction never holds: these inequalities, each as often as said, add up to `total` >= 0."""

    terms: tuple[tuple[int, Form], ...]
    total: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Why a condition never holds: a contradiction for each of its conjunctions. Some of their inequalities come from
    the elimination of variables, in `steps` steps that were checked one by one."""

    contradictions: tuple[Contradiction, ...]
    steps: int = 0


def prove_never(condition: Expr, positive: Iterable[Expr] = ()) -> Proof | None:
    """A proof that the condition holds for no numbers at all, or None if none was found."""
    terms = conjunctions(normal_condition(condition))
    if terms is None or len(terms) > MAX_CASES:
        return None
    found: list[Contradiction] = []
    for term in terms:
        contradiction = contradict(term, positive)
        if contradiction is None:
            return None
        found.append(contradiction)
    return Proof(tuple(found))


def contradict(literals: Sequence[Expr], positive: Iterable[Expr] = ()) -> Contradiction | None:
    """Why the literals cannot hold together; None if no contradiction was found."""
    forms = _system(literals, positive)
    rows = [Row(form, {i: 1}) for i, form in enumerate(forms)]
    while True:
        false = next((row for row in rows if not row.form.terms and row.form.constant < 0), None)
        if false is not None:
            used = tuple((share, forms[i]) for i, share in sorted(false.shares.items()))
            return Contradiction(used, false.form.constant)
        eliminated = _eliminated(rows)
        if eliminated is None:
            return None
        rows = eliminated


def _system(literals: Sequence[Expr], positive: Iterable[Expr]) -> list[Form]:
    """The inequalities of a conjunction, the definitions of its quotients, and what always holds."""
    remainders = Remainders()
    given = [found for each in literals if (found := literal_form(each)) is not None and found[0] is not Op.NE]
    known = set(positive) | {next(iter(f.terms))[0] for op, f in given if op is Op.GE and _is_at_least_one(f)}
    forms: list[Form] = [form_of(divisor).shifted(-1) for divisor in positive]
    for op, plain in given:
        form = remainders.expanded(plain)
        forms += [form] if op is Op.GE else [form, form.scaled(-1)]
    seen: set[Expr] = set()
    pending = [atom for form in forms for atom in form.atoms()]
    while pending:
        atom = pending.pop(0)
        if atom in seen:
            continue
        seen.add(atom)
        added = _definition(atom, remainders, known)
        forms += added
        pending += [a for form in added for a in form.atoms()]
    for smaller, larger, distance in ALWAYS:
        if larger in seen or smaller in seen:
            forms.append(form_of(larger).plus(form_of(smaller), -1).shifted(-distance))
    forms += [form_of(each).shifted(-1) for each in (BATCH, HEADS, Q_LEN, KV_LEN) if each in seen]
    forms += _steps([a for a in seen if a.op is Op.FLOORDIV], forms)
    return forms + [form_of(divisor).times(form) for divisor in known for form in forms if _may_grow(form, divisor)]


def _may_grow(form: Form, divisor: Expr) -> bool:
    """Whether a positive multiple of form >= 0 may help: short sums of single atoms, one a quotient by the divisor,
    or one that stands in a product with it elsewhere."""
    atoms = [m[0] for m in form.terms if len(m) == 1]
    plain = len(atoms) == len(form.terms) <= 3 and divisor not in atoms and divisor.op is not Op.CONST
    return plain and not any(a in (Q_IDX, KV_IDX, Q_LEN, KV_LEN) for a in atoms)


def _is_at_least_one(form: Form) -> bool:
    return form.constant <= -1 and list(form.terms.values()) == [1] and len(next(iter(form.terms))) == 1


def _steps(quotients: Sequence[Expr], forms: Sequence[Form]) -> list[Form]:
    """x <= y gives x // d <= y // d, for every two quotients whose dividends are known to be in order."""
    least = {form.key(): form.constant for form in forms}
    made = []
    for x in quotients:
        for y in quotients:
            rest = form_of(y.args[0]).plus(form_of(x.args[0]), -1)
            if x is not y and x.args[1] is y.args[1] and least.get(rest.key(), rest.constant + 1) <= rest.constant:
                made.append(atom_form(y).plus(atom_form(x), -1))
    return made


def _definition(atom: Expr, remainders: Remainders, known: set[Expr]) -> list[Form]:
    """What follows from the meaning of an atom: quotients, remainders, minima and maxima."""
    if atom.op in (Op.FLOORDIV, Op.MOD):
        divisor = atom.args[1]
        if (
            not (divisor.op is Op.CONST and isinstance(divisor.value, int) and divisor.value > 0)
            and divisor not in known
        ):
            return []
        dividend, by = remainders.expanded(form_of(atom.args[0])), form_of(divisor)
        if atom.op is Op.MOD:
            return [atom_form(atom), by.shifted(-1).plus(atom_form(atom), -1)]
        multiple = by.times(atom_form(atom))
        return [dividend.plus(multiple, -1), multiple.plus(by).shifted(-1).plus(dividend, -1)]
    if atom.op in (Op.MIN, Op.MAX):
        sign = 1 if atom.op is Op.MAX else -1
        return [atom_form(atom).plus(form_of(arg), -1).scaled(sign) for arg in atom.args]
    return []


def _eliminated(rows: Sequence[Row]) -> list[Row] | None:
    """The rows without one of their products of atoms, each taken as a variable; None at the end."""
    products = {m: None for row in rows for m in row.form.terms}
    best, pairs = None, 0
    for product in products:
        up = sum(row.form.terms.get(product, 0) > 0 for row in rows)
        down = sum(row.form.terms.get(product, 0) < 0 for row in rows)
        if best is None or up * down - up - down < pairs:
            best, pairs = product, up * down - up - down
    if best is None:
        return None
    made = [row for row in rows if best not in row.form.terms]
    for lower in rows:
        a = lower.form.terms.get(best, 0)
        for upper in rows:
            b = -upper.form.terms.get(best, 0)
            if a > 0 and b > 0:
                made.append(_tightened(Row(lower.form.scaled(b).plus(upper.form, a), _shares(lower, b, upper, a))))
    kept: dict[object, Row] = {}
    for row in made:
        key = row.form.key()
        if row.form.terms or row.form.constant < 0:
            kept[key] = min(kept.get(key, row), row, key=lambda r: r.form.constant)
    return list(kept.values()) if len(kept) <= MAX_ROWS else None


def _shares(lower: Row, b: int, upper: Row, a: int) -> dict[int, int]:
    shares = {i: share * b for i, share in lower.shares.items()}
    for i, share in upper.shares.items():
        shares[i] = shares.get(i, 0) + share * a
    return shares


def _tightened(row: Row) -> Row:
    """The row over the common factor of its coefficients, rounded: form >= 0 has the same whole solutions."""
    divisor = row.form.content
    if divisor <= 1:
        return row
    return Row(Form({m: c // divisor for m, c in row.form.terms.items()}, row.form.constant // divisor), row.shares)


def draw_numbers(condition: Expr, tries: int, seed: int = 0) -> Iterator[tuple[dict[str, int], int]]:
    """Random values for the condition's inputs and parameters, positions inside sizes, each with a seed for captured
    tensors. Small numbers, and numbers beside multiples of the constants that the condition mentions."""
    names = names_of(condition)
    found = {abs(e.value) for e in postorder(condition) if e.op is Op.CONST and type(e.value) is int}
    constants = sorted(c for c in found if 1 < c <= LARGEST_CONSTANT)
    r = random.Random(seed)
    for _ in range(tries):
        yield _numbers(r, names, constants if r.random() < 0.5 else []), r.randrange(1 << 30)


def _numbers(r: random.Random, names: Sequence[str], constants: Sequence[int]) -> dict[str, int]:
    """Random values: sizes first, positions and tiles inside them."""
    sizes = (*SIZES, *(c * k + d for c in constants for k in (1, 2, 3) for d in (0, 1)))
    values = {
        "batch": r.randrange(1, 4),
        "heads": r.randrange(1, 9),
        "q_len": r.choice(sizes),
        "kv_len": r.choice(sizes),
    }
    if r.random() < 0.5:
        values["kv_len"] = values["q_len"]
    values["b"], values["h"] = r.randrange(values["batch"]), r.randrange(values["heads"])
    for side in ("q", "kv"):
        size = values[f"{side}_len"]
        start = r.randrange(size)
        if constants and r.random() < 0.7:
            start = min(max(r.choice(constants) * r.randrange(4) + r.choice((-1, 0, 1)), 0), size - 1)
        stop = min(size, start + r.choice((1, 2, 4, 8)))
        values[f"{side}_min"], values[f"{side}_max"] = start, stop - 1
        values[f"{side}_idx"] = r.randrange(start, stop)
    for name in names:
        if name not in values:
            values[name] = r.choice((*TRIED, *constants))
    return values


def describe(contradiction: Contradiction) -> list[str]:
    """The inequalities of a contradiction as lines; a printer of expressions makes them readable."""
    return [f"{share} * ({_plain(form)} >= 0)" for share, form in contradiction.terms]


def _plain(form: Form) -> str:
    pieces = []
    for monomial, count in form.ordered():
        names = "*".join(_name(atom) for atom in monomial)
        pieces.append(f"{'+' if count > 0 else '-'} {'' if abs(count) == 1 else f'{abs(count)}*'}{names}")
    if form.constant or not pieces:
        pieces.append(f"{'+' if form.constant >= 0 else '-'} {abs(form.constant)}")
    return " ".join(pieces).removeprefix("+ ")


def _name(atom: Expr) -> str:
    if atom.op in (Op.INPUT, Op.PARAM):
        return str(atom.value)
    inner = ", ".join(_plain(form_of(arg)) if arg.scalar == 1 else _name(arg) for arg in atom.args)
    if atom.op is Op.LOAD:
        return f"{atom.value}[{inner}]"
    return f"{atom.op.value}({inner})"


def implication(assumed: Expr, claimed: Expr) -> Expr:
    """The condition that would refute that `claimed` follows from `assumed`."""
    return apply(Op.AND, assumed, apply(Op.NOT, claimed))

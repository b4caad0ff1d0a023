"""One form for masks that mean the same: sorted conjunctions of literals, without what follows from the rest.

Names of parameters and captured tensors do not count; they are numbered in the order of their first use. Two masks
with one digest are equal. Equal masks may have two digests, where only `attncc.analysis.algebra` finds the equality.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attncc.analysis.conditions import conjunctions, normal_condition
from attncc.analysis.linear import Form, form_of, sort_key
from attncc.analysis.logic import joined, literal, literal_form, negated, parts
from attncc.analysis.symbolic import ExprNumbers
from attncc.ir import (
    BATCH,
    HEADS,
    KV_IDX,
    KV_LEN,
    Q_IDX,
    Q_LEN,
    TRUE,
    B,
    Expr,
    H,
    Op,
    Scalar,
    node,
    postorder,
    with_args,
)

#: Of more parameters than this that are used alike, one order is tried.
MAX_TIED = 3
#: Of more conjuncts than this no two are added to find a third.
MAX_PAIRED = 8


@dataclass(frozen=True, slots=True)
class Canonical:
    """A mask's canonical condition, with its parameters and captures renamed to p0, p1, ... and c0, c1, ...

    `parameters` and `captures` hold the names in that order. Equal digests mean equal masks, up to those names.
    """

    condition: Expr
    parameters: tuple[str, ...]
    captures: tuple[str, ...]
    digest: str


def canonical(mask: Expr) -> Canonical:
    """The canonical form of a mask."""
    condition = canonical_condition(mask)
    literals = [e for e in postorder(condition) if e.scalar is Scalar.BOOL and e.op not in (Op.AND, Op.OR)]
    parameters = _ranked(literals, Op.PARAM)
    captures = _ranked(literals, Op.LOAD)
    best: tuple[str, Expr, tuple[str, ...], tuple[str, ...]] | None = None
    for ps in parameters:
        for cs in captures:
            names, tensors = (
                {name: f"{letter}{i}" for i, name in enumerate(x)} for letter, x in (("p", ps), ("c", cs))
            )
            made = canonical_condition(_renamed(condition, names, tensors))
            if best is None or sort_key(made) < best[0]:
                best = sort_key(made), made, ps, cs
    assert best is not None
    digest = hashlib.blake2b(best[0].encode(), digest_size=16).hexdigest()
    return Canonical(best[1], best[2], best[3], digest)


def _numbered(letter: str, names: Sequence[str]) -> dict[str, str]:
    return {name: f"{letter}{i}" for i, name in enumerate(names)}


def _ranked(literals: Sequence[Expr], op: Op) -> list[tuple[str, ...]]:
    """The names of parameters (or captures) in an order that follows from how they are used; every such order where
    two are used alike."""
    names = sorted({str(e.value) for e in postorder(*literals) if e.op is op})
    uses: dict[str, list[str]] = {}
    for name in names:
        for each in literals:
            found = postorder(each)
            if any(e.op is op and e.value == name for e in found):
                rename = [{str(e.value): "other" for e in found if e.op is each} for each in (Op.PARAM, Op.LOAD)]
                rename[op is Op.LOAD][name] = "this"
                uses.setdefault(name, []).append(sort_key(_respelled(_renamed(each, *rename))))
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(sorted(uses[name])), []).append(name)
    orders: list[tuple[str, ...]] = [()]
    for _, group in sorted(groups.items()):
        tied = itertools.permutations(group) if len(group) <= MAX_TIED else [tuple(group)]
        orders = [(*order, *more) for more in tied for order in orders]
    return orders


def _respelled(expr: Expr) -> Expr:
    """A comparison in its one spelling: which side a term stands on must not follow from a name that it had."""
    found = literal_form(expr)
    return expr if found is None else literal(*found)


def _renamed(root: Expr, parameters: Mapping[str, str], captures: Mapping[str, str]) -> Expr:
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        made = with_args(expr, tuple(done[arg] for arg in expr.args))
        if expr.op is Op.PARAM:
            made = node(Op.PARAM, (), parameters[str(expr.value)], expr.scalar)
        elif expr.op is Op.LOAD:
            made = node(Op.LOAD, made.args, captures[str(expr.value)], expr.scalar)
        done[expr] = made
    return done[root]


def canonical_condition(mask: Expr) -> Expr:
    """The mask as a sorted union of sorted conjunctions; a sorted normal condition where that would be too large."""
    condition = normal_condition(mask)
    terms = conjunctions(condition)
    if terms is None:
        return _sorted_condition(condition)
    numbers = ExprNumbers({})
    reduced = [_without_implied(numbers, term) for term in terms]
    kept = _merged([term for term in reduced if term is not None])
    return joined(Op.OR, *sorted((joined(Op.AND, *sorted(term, key=sort_key)) for term in kept), key=sort_key))


def _known_forms() -> list[Form]:
    """What is at least 0 in every call, besides that positions count from 0: each index is below its size."""
    pairs = ((B, BATCH), (H, HEADS), (Q_IDX, Q_LEN), (KV_IDX, KV_LEN))
    return [form_of(size).plus(form_of(index), -1).shifted(-1) for index, size in pairs]


def _follows(numbers: ExprNumbers, form: Form, from_: Iterable[Form]) -> bool:
    return numbers.is_nonnegative(form) or any(numbers.is_nonnegative(form.plus(known, -1)) for known in from_)


def _follows_from_two(numbers: ExprNumbers, form: Form, from_: Sequence[Form]) -> bool:
    """Whether form >= 0 follows from two others: d + w > 0 from d >= 0 and w > d, which is their sum with d twice."""
    pairs = itertools.permutations(from_, 2) if len(from_) <= MAX_PAIRED else ()
    return any(numbers.is_nonnegative(form.plus(x, -1).plus(y, -times)) for x, y in pairs for times in (1, 2))


def _without_implied(numbers: ExprNumbers, literals: Sequence[Expr]) -> list[Expr] | None:
    """The literals without those that follow from the others; None if they contradict what always holds."""
    forms = [literal_form(each) for each in literals]
    kept: list[int] = []
    for i, found in enumerate(forms):
        if found is None or found[0] is not Op.GE:
            kept.append(i)
            continue
        if _follows(numbers, found[1].scaled(-1).shifted(-1), _known_forms()):
            return None
        others = [f[1] for j in (*kept, *range(i + 1, len(forms))) if (f := forms[j]) is not None and f[0] is Op.GE]
        if not _follows(numbers, found[1], [*others, *_known_forms()]) and not _follows_from_two(
            numbers, found[1], others
        ):
            kept.append(i)
    return [literals[i] for i in kept]


def _merged(terms: list[list[Expr]]) -> list[list[Expr]]:
    """The union with x and a, x and not a made one: x; and without conjunctions that another one contains."""
    sets = [frozenset(term) for term in terms]
    changed = True
    while changed:
        changed = False
        sets = [s for i, s in enumerate(sets) if not any(o < s or (o == s and j < i) for j, o in enumerate(sets))]
        for i, left in enumerate(sets):
            for right in sets[i + 1 :]:
                merged = _resolved(left, right)
                if merged is not None:
                    sets = [s for s in sets if s not in (left, right)] + [merged]
                    changed = True
                    break
            if changed:
                break
    return [list(s) for s in sets]


def _resolved(left: frozenset[Expr], right: frozenset[Expr]) -> frozenset[Expr] | None:
    """The conjunction that stands for two which differ in one literal that, or whose negation, always holds."""
    (only_left, only_right) = (left - right, right - left)
    if len(only_left) != 1 or len(only_right) != 1:
        return None
    either = joined(Op.OR, *only_left, *only_right)
    if either is TRUE:
        return left & right
    return (left & right) | {either} if either in only_left or either in only_right else None


def _sorted_condition(condition: Expr) -> Expr:
    done: dict[Expr, Expr] = {}
    for expr in postorder(condition):
        if expr.op in (Op.AND, Op.OR):
            done[expr] = joined(expr.op, *sorted((done[part] for part in parts(expr.op, expr)), key=sort_key))
        else:
            done[expr] = expr
    return done[condition]


def complement(mask: Expr) -> Expr:
    """The mask of the pairs that this one hides, in canonical form."""
    return canonical_condition(negated(mask))

"""What a kernel does about reads beyond a tensor and about ints divided by 0: it marks the pairs that depend on them.

A visible pair whose visibility or score depends on such a value is an error, or makes its row NaN; what `where` does
not select, and what `and` and `or` do not need, does not count. `guard` writes that as an expression, so that every
back end and the tile analysis see the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attncc.ir import (
    FALSE,
    AttentionSpec,
    Expr,
    Op,
    Scalar,
    apply,
    conjunction,
    const,
    disjunction,
    param,
    postorder,
    with_args,
)
from attncc.schedule.loads import divisions_of, loads_of


@dataclass(frozen=True, slots=True)
class Guarded:
    """A spec whose mask shows the pairs in doubt, and never divides by 0; `beyond` says which pairs those are.

    `unproven` are the reads whose indices have to be held inside their tensor, `plain` those whose indices are proven
    to lie inside and not to be negative, `approximate` the uses of `tanh` for which the GPU's instruction serves.
    """

    spec: AttentionSpec
    beyond: Expr = FALSE
    unproven: frozenset[Expr] = frozenset()
    plain: frozenset[Expr] = frozenset()
    approximate: frozenset[Expr] = frozenset()


def guard(
    spec: AttentionSpec, in_bounds: frozenset[int], nonzero: frozenset[int], plain: frozenset[int] = frozenset()
) -> Guarded:
    """The spec with guards for all loads and divisions but those whose numbers are given as proven."""
    loads = {load for i, load in enumerate(loads_of(spec)) if i not in in_bounds and load.args}
    divisions = {division for i, division in enumerate(divisions_of(spec)) if i not in nonzero}
    never_negative = {load for i, load in enumerate(loads_of(spec)) if i in plain}
    if not loads and not divisions:
        return Guarded(spec, plain=frozenset(never_negative))
    doubts = dict.fromkeys(postorder(spec.score, spec.mask), FALSE)
    held: dict[Expr, Expr] = {}
    for expr in doubts:
        args = tuple(held[arg] for arg in expr.args)
        doubts[expr] = _doubt(expr, args, doubts, expr in loads, expr in divisions)
        if expr in divisions:
            args = (args[0], apply(Op.WHERE, _is_zero(args[1]), const(1), args[1]))
        held[expr] = with_args(expr, args)
    safe = replace(spec, score=held[spec.score], mask=disjunction(held[spec.mask], doubts[spec.mask]))
    beyond = disjunction(doubts[spec.mask], doubts[spec.score])
    return Guarded(
        safe, beyond, frozenset(held[load] for load in loads), frozenset(held[load] for load in never_negative)
    )


def size_name(capture: str, dim: int) -> str:
    """The parameter that holds the size of a captured tensor; no user's name has a colon."""
    return f"{capture}:{dim}"


def _doubt(expr: Expr, args: tuple[Expr, ...], doubts: Mapping[Expr, Expr], is_load: bool, is_division: bool) -> Expr:
    """Where the value depends on a read beyond a tensor or on a division by 0; `args` are the guarded operands."""
    below = [doubts[arg] for arg in expr.args]
    match expr.op:
        case Op.WHERE if args[0].scalar is Scalar.BOOL:
            return disjunction(below[0], _chosen(args[0], below[1], below[2]))
        case Op.AND | Op.OR:
            a, b = args if expr.op is Op.AND else (apply(Op.NOT, arg) for arg in args)
            both = _all(below[0], below[1])
            return disjunction(both, _all(below[0], b), _all(below[1], a))
        case Op.LOAD if is_load:
            outside = [_outside(index, str(expr.value), dim) for dim, index in enumerate(args)]
            return disjunction(*below, *outside)
        case Op.FLOORDIV | Op.MOD if is_division:
            return disjunction(*below, _is_zero(args[1]))
        case _:
            return disjunction(*dict.fromkeys(below))


def _all(a: Expr, b: Expr) -> Expr:
    return FALSE if FALSE in (a, b) else conjunction(a, b)


def _chosen(condition: Expr, first: Expr, second: Expr) -> Expr:
    if first is second:
        return first
    chosen = _all(condition, first)
    return disjunction(chosen, _all(apply(Op.NOT, condition), second))


def _outside(index: Expr, capture: str, dim: int) -> Expr:
    size = param(size_name(capture, dim))
    return disjunction(apply(Op.LT, index, apply(Op.NEG, size)), apply(Op.GE, index, size))


def _is_zero(expr: Expr) -> Expr:
    return apply(Op.EQ, expr, const(0))

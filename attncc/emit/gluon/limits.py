"""Masks as limits of rows: where a query sees just the keys between two numbers, a tile compares columns with them.

What else a mask asks for is asked in the tile. The end of the sequence is the limit of a mask that has no other.

The solved ranges of a mask say for a tile of queries which keys some of its queries see, and which ones all see. For a
tile of a single query both are the same keys, if the solver lost nothing. Then the query sees exactly these, and a tile
that the mask cuts needs no more than the limits of its rows, which are worked out once for each tile of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Final

from attncc.analysis.bands import Bands, MaskShape, Range, summarize_mask
from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.analysis.logic import parts
from attncc.analysis.numbers import INF
from attncc.analysis.shape import depends
from attncc.analysis.statistics import reads_along_a_side
from attncc.analysis.symbolic import Q_MAX, Q_MIN
from attncc.emit.triton.expressions import ONCE, rows
from attncc.emit.triton.plan import Draft
from attncc.ir import (
    FALSE,
    KV_IDX,
    KV_LEN,
    Q_IDX,
    TRUE,
    Expr,
    Op,
    Scalar,
    apply,
    conjunction,
    const,
    postorder,
    substitute,
)
from attncc.passes import simplify

#: Ranges that a tile compares with; a mask of more keeps its predicate.
MAX_RANGES: Final = 2
PLACES: Final = (ONCE, rows("q_idx"))
ROW: Final = {Q_MIN: Q_IDX, Q_MAX: Q_IDX}


@dataclass(frozen=True, slots=True)
class Limits:
    """A row sees start <= key < stop, which lies inside the sequence; None is its beginning."""

    start: Expr | None
    stop: Expr


def split_mask(shape: MaskShape, mask: Expr, *, positive: bool, whole: bool = False) -> tuple[tuple[Limits, ...], Expr]:
    """The keys that queries see, as at most two ranges, and what is left of the mask to be looked up in them.

    `positive` says that divisors of the mask are known to be at least 1. A mask of which nothing is proven is left as
    it is, within all keys; so is any that is no limits as a `whole`, if that is asked for.
    """
    found = row_limits(shape, mask, positive=positive)
    if found is not None:
        return found, TRUE
    if whole:
        return (Limits(None, KV_LEN),), mask
    conjuncts = parts(Op.AND, mask)
    bands = [each for each in conjuncts if len(conjuncts) > 1 and _is_band(each, positive)]
    band = conjunction(TRUE, *bands)
    found = row_limits(summarize_mask(band), band, positive=positive) if bands else None
    if found is None:
        found, bands = (Limits(None, KV_LEN),), []
    rest = [each for each in conjuncts if each not in bands]
    if len(found) > 1:
        return found, conjunction(TRUE, *rest)
    return _narrowed(found[0], rest)


def _narrowed(limits: Limits, conjuncts: Sequence[Expr]) -> tuple[tuple[Limits, ...], Expr]:
    """The limits with those that compare kv_idx itself with what a row knows, and the other conjuncts."""
    starts, stops, rest = [limits.start], [limits.stop], []
    for each in conjuncts:
        match _as_limit(each):
            case (Op.GE, bound):
                starts.append(bound)
            case (Op.LT, bound):
                stops.append(bound)
            case _:
                rest.append(each)
    lowest = [each for each in starts if each is not None]
    start = reduce(lambda a, b: apply(Op.MAX, a, b), [*lowest, const(0)]) if lowest else None
    stop = reduce(lambda a, b: apply(Op.MIN, a, b), stops)
    return (Limits(None if start is None else simplify(start), simplify(stop)),), conjunction(TRUE, *rest)


def _as_limit(expr: Expr) -> tuple[Op, Expr] | None:
    """A comparison of kv_idx with what does not change with it, as kv_idx >= or < a number."""
    turned = {Op.GE: Op.LE, Op.LE: Op.GE, Op.GT: Op.LT, Op.LT: Op.GT}
    if expr.op not in turned or expr.args[0].scalar is not Scalar.INDEX:
        return None
    op, (left, right) = expr.op, expr.args
    if right is KV_IDX:
        op, left, right = turned[op], right, left
    if left is not KV_IDX or "kv_idx" in depends(right):
        return None
    follows = op in (Op.GT, Op.LE)
    return Op.GE if op in (Op.GE, Op.GT) else Op.LT, apply(Op.ADD, right, const(1)) if follows else right


def row_limits(shape: MaskShape, mask: Expr, *, positive: bool) -> tuple[Limits, ...] | None:
    """The keys that each query sees, as at most two ranges; None where they are not proven to be just these."""
    if not isinstance(shape, Bands) or not _is_assumed(shape.assume, mask, positive):
        return None
    ranges = [each for each in shape.kv_ranges if not (positive and _is_refuted(each.when, mask))]
    found = [_limits(each) for each in ranges]
    made = _merged([each for each in found if each is not None])
    return made if None not in found and 0 < len(made) <= MAX_RANGES else None


@cache
def _is_band(mask: Expr, positive: bool) -> bool:
    """Whether a part of a mask, which reads nothing along the sequence, is limits of rows."""
    return not reads_along_a_side(mask) and row_limits(summarize_mask(mask), mask, positive=positive) is not None


def _limits(found: Range) -> Limits | None:
    """The keys that a single query sees by one range; None where some of them may be hidden."""
    start, stop, full_start, full_stop, when = (
        simplify(substitute(each, ROW))
        for each in (found.start, found.stop, found.full_start, found.full_stop, found.when)
    )
    if not (_terms(Op.MAX, full_start) <= _terms(Op.MAX, start) and _terms(Op.MIN, full_stop) <= _terms(Op.MIN, stop)):
        return None
    if when is not TRUE:
        stop = simplify(apply(Op.WHERE, when, stop, const(0)))
    return Limits(None if start is const(0) else start, stop)


def _terms(op: Op, expr: Expr) -> frozenset[Expr]:
    """What the largest or least is taken of: the fewer, the less a largest number is, and the larger a least one."""
    return frozenset(parts(op, expr))


def _merged(limits: list[Limits]) -> tuple[Limits, ...]:
    """Ranges from the beginning are one, up to the largest of their ends."""
    ends = [each.stop for each in limits if each.start is None]
    rest = tuple(each for each in limits if each.start is not None)
    if not ends:
        return rest
    stop = ends[0]
    for each in ends[1:]:
        stop = apply(Op.MAX, stop, each)
    return (Limits(None, simplify(stop)), *rest)


def _is_assumed(assume: Expr, mask: Expr, positive: bool) -> bool:
    return assume is TRUE or (positive and bool(bounds(assume, _divisors(mask)).lo))


def _is_refuted(when: Expr, mask: Expr) -> bool:
    return when is FALSE or not bounds(when, _divisors(mask)).hi


def _divisors(mask: Expr) -> Box:
    """What is known of divisors: they are positive."""
    divisions = [e for e in postorder(mask) if e.op in (Op.FLOORDIV, Op.MOD) and e.scalar is Scalar.INDEX]
    return Box({}, {each.args[1]: Interval(1, INF) for each in divisions if each.args[1].op is not Op.CONST})


def roots_of(limits: Sequence[Limits]) -> tuple[Expr, ...]:
    """The expressions that limits are made of."""
    return tuple(e for each in limits for e in (each.start, each.stop) if e is not None)


def with_mask(draft: Draft, mask: Expr) -> Draft:
    """The draft with another mask."""
    other = copy(draft)
    other.spec = replace(draft.spec, mask=mask)
    return other


def draw_limits(draft: Draft, limits: Sequence[Limits], *, more: bool) -> str:
    """Print the limits of each row before the tiles; the condition by which a tile at kv_start shows its pairs. It is
    an operand of `&` if there is `more`."""
    texts = draft.printer.print(PLACES, *roots_of(limits))
    shown = []
    for each in limits:
        stop = _said(draft, each.stop, texts[each.stop].text, "row_stop", "")
        condition = f"columns_before({stop} - kv_start, dot_layout)"
        if each.start is not None:
            start = _said(draft, each.start, texts[each.start].text, "row_start", stop)
            condition = f"columns_before({start} - kv_start, dot_layout) != {condition}"
        shown.append(f"({condition})" if each.start is not None and (len(limits) > 1 or more) else condition)
    return f"({' | '.join(shown)})" if more and len(shown) > 1 else " | ".join(shown)


def _said(draft: Draft, limit: Expr, text: str, wanted: str, most: str) -> str:
    """The name of a limit, of 32 bits and no larger than `most`."""
    if limit is KV_LEN:
        return text
    name = draft.printer.namer.take(wanted)
    wide = any(e.op is Op.LOAD and draft.captures.dtypes[str(e.value)] == "int64" for e in postorder(limit))
    text = f"tl.minimum({text}, {most})" if most else text
    draft.printer.say(PLACES[-1], f"{name} = tl.maximum({text}, 0).to(tl.int32)" if wide else f"{name} = {text}")
    return name

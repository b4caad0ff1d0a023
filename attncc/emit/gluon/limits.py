"""Masks as limits of rows: where a query sees just the keys between two numbers, a tile compares columns with them.

The solved ranges of a mask say for a tile of queries which keys some of its queries see, and which ones all see. For a
tile of a single query both are the same keys, if the solver lost nothing. Then the query sees exactly these, and a tile
that the mask cuts needs no more than the limits of its rows, which are worked out once for each tile of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from attncc.analysis.bands import Bands, MaskShape, Range
from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.analysis.logic import parts
from attncc.analysis.numbers import INF
from attncc.analysis.symbolic import Q_MAX, Q_MIN
from attncc.emit.triton.expressions import ONCE, rows
from attncc.emit.triton.plan import Draft
from attncc.ir import FALSE, Q_IDX, TRUE, Expr, Op, Scalar, apply, const, postorder, substitute
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


def row_limits(shape: MaskShape, mask: Expr, *, positive: bool) -> tuple[Limits, ...] | None:
    """The keys that each query sees, as at most two ranges; None where they are not proven to be just these.

    `positive` says that divisors of the mask are known to be at least 1.
    """
    if not isinstance(shape, Bands) or not _is_assumed(shape.assume, mask, positive):
        return None
    ranges = [each for each in shape.kv_ranges if not (positive and _is_refuted(each.when, mask))]
    found = [_limits(each) for each in ranges]
    made = _merged([each for each in found if each is not None])
    return made if None not in found and 0 < len(made) <= MAX_RANGES else None


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


def unmasked(draft: Draft) -> Draft:
    """The draft without its mask."""
    other = copy(draft)
    other.spec = replace(draft.spec, mask=TRUE)
    return other


def draw_limits(draft: Draft, limits: Sequence[Limits]) -> str:
    """Print the limits of each row before the tiles; the condition by which a tile at kv_start shows its pairs."""
    texts = draft.printer.print(PLACES, *roots_of(limits))
    shown = []
    for each in limits:
        stop = _said(draft, each.stop, texts[each.stop].text, "row_stop", "")
        condition = f"columns_before({stop} - kv_start, dot_layout)"
        if each.start is not None:
            start = _said(draft, each.start, texts[each.start].text, "row_start", stop)
            condition = f"columns_before({start} - kv_start, dot_layout) != {condition}"
        shown.append(condition)
    return shown[0] if len(shown) == 1 else " | ".join(f"({each})" for each in shown)


def _said(draft: Draft, limit: Expr, text: str, wanted: str, most: str) -> str:
    """The name of a limit, of 32 bits and no larger than `most`."""
    name = draft.printer.namer.take(wanted)
    wide = any(e.op is Op.LOAD and draft.captures.dtypes[str(e.value)] == "int64" for e in postorder(limit))
    text = f"tl.minimum({text}, {most})" if most else text
    draft.printer.say(PLACES[-1], f"{name} = tl.maximum({text}, 0).to(tl.int32)" if wide else f"{name} = {text}")
    return name

"""A mask, summarised: which ranges of keys a tile of queries must visit, and which queries a tile of keys.

The mask becomes a union of conjunctions; each is solved by `attncc.analysis.affine` into one range for a tile, with the
part of it that needs no mask. All are closed forms in the tile's ends: no table, no memory, any length. Inside the
ranges a tile test decides tile by tile; for linear masks it is exact over the integers. Masks that read captured
tensors along the sequence are `Tabulated`: their test reads statistics of blocks, their ranges hold all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.affine import Projection
from attncc.analysis.agreement import check_agreement
from attncc.analysis.bounds import Walk
from attncc.analysis.numbers import Value
from attncc.analysis.solver import Solver
from attncc.analysis.statistics import Statistic, reads_along_a_side
from attncc.analysis.symbolic import ExprNumbers
from attncc.analysis.tiles import TileTest, symbolic_walk
from attncc.ir import FALSE, KV_LEN, Q_LEN, TRUE, Expr, const

#: More ranges than this are replaced by the one that holds them all; the tile test then leaves out what lies between.
MAX_RANGES: Final = 4


@dataclass(frozen=True, slots=True)
class Range:
    """Positions start <= position < stop to visit if `when` holds; from full_start to full_stop no mask is needed.

    Inside the sequence always; empty where stop <= start, or full_stop <= full_start.
    """

    start: Expr
    stop: Expr
    full_start: Expr
    full_stop: Expr
    when: Expr = TRUE


@dataclass(frozen=True, slots=True)
class Dense:
    """Nothing can be skipped; with `full` no tile needs the mask either."""

    full: bool
    test: TileTest


@dataclass(frozen=True, slots=True)
class Bands:
    """Solved. `kv_ranges` in q_min and q_max, `q_ranges` in kv_min and kv_max, each in ascending order of `start`.

    Ranges may share a tile; a walk that never goes back visits each tile once. `exact`: every position of a range is
    visible to some position of the tile, so that the ranges alone give the non-empty tiles; otherwise `test` leaves
    out more. `assume` must hold of the parameters (divisors are positive); the ranges are the whole sequence where not.
    """

    kv_ranges: tuple[Range, ...]
    q_ranges: tuple[Range, ...]
    test: TileTest
    exact: bool
    assume: Expr = TRUE


@dataclass(frozen=True, slots=True)
class Tabulated:
    """Tiles are classified by `test`, for a table or inside the loop; only tiles of the ranges can be visible."""

    kv_ranges: tuple[Range, ...]
    q_ranges: tuple[Range, ...]
    test: TileTest
    reason: str
    assume: Expr = TRUE


MaskShape = Dense | Bands | Tabulated


def summarize_mask(mask: Expr) -> MaskShape:
    """What a kernel must visit, as closed forms, checked against classification by intervals. LanguageError if a
    parameter has a reserved name."""
    solver = Solver(mask)
    shape = _summarized(mask, solver)
    sides = (_whole(KV_LEN), _whole(Q_LEN)) if isinstance(shape, Dense) else (shape.kv_ranges, shape.q_ranges)
    kv, q = ([(r.start, r.stop, r.full_start, r.full_stop, r.when) for r in ranges] for ranges in sides)
    check_agreement(mask, (shape.test.visit, shape.test.full), kv, q, solver.remainders.positive)
    return shape


def _whole(size: Expr) -> tuple[Range, ...]:
    """All positions, as a range."""
    return (Range(const(0), size, const(0), const(0)),)


def _summarized(mask: Expr, solver: Solver) -> MaskShape:
    terms = solver.rough()
    union = None if terms is None else solver.solve(terms)
    test = solver.test(union)
    if test.full is TRUE:
        return Dense(True, test)
    assume = solver.assume
    if union is None:
        return Tabulated(_whole(KV_LEN), _whole(Q_LEN), test, "the mask has too many cases to be solved", assume)
    kv_apart, q_apart = arranged(solver.numbers, union.kv), arranged(solver.numbers, union.q)
    kv_ranges = _guarded(
        solver.numbers, _hull(solver.numbers, union.kv, KV_LEN) if kv_apart is None else kv_apart, assume, KV_LEN
    )
    q_ranges = _guarded(
        solver.numbers, _hull(solver.numbers, union.q, Q_LEN) if q_apart is None else q_apart, assume, Q_LEN
    )
    if reads_along_a_side(mask):
        return Tabulated(kv_ranges, q_ranges, test, "the mask reads captured tensors along the sequence", assume)
    if test.visit is TRUE:
        return Dense(False, test)
    apart = kv_apart is not None and q_apart is not None
    exact = apart and terms is solver.terms and all(p.exact for p in (*union.kv, *union.q))
    return Bands(kv_ranges, q_ranges, test, exact, assume)


def arranged(n: ExprNumbers, found: Sequence[Projection]) -> tuple[Range, ...] | None:
    """The projections as ranges in ascending order of their starts; None where they are too many or have no order."""
    ranges = [Range(p.start, p.stop, p.full_start, p.full_stop, p.when) for p in found if p.when is not FALSE]
    kept: list[Range] = []
    for i, each in enumerate(ranges):
        others = [*kept, *ranges[i + 1 :]]
        if not any(_holds_all(n, other, each) for other in others):
            kept.append(each)
        if len(kept) > MAX_RANGES:
            return None
    return _sorted(n, kept)


def _holds_all(n: ExprNumbers, outer: Range, inner: Range) -> bool:
    """Whether the outer range certainly holds the inner one, and what is full of it."""
    if outer.when is not TRUE and outer.when is not inner.when:
        return False
    within = n.is_ordered(outer.start, inner.start) and n.is_ordered(inner.stop, outer.stop)
    empty = n.is_ordered(inner.full_stop, inner.full_start)
    full = n.is_ordered(outer.full_start, inner.full_start) and n.is_ordered(inner.full_stop, outer.full_stop)
    return within and (empty or full)


def _hull(n: ExprNumbers, found: Sequence[Projection], size: Expr) -> tuple[Range, ...]:
    """One range around all projections."""
    starts = [_lifted(n.where(each.when, each.start, size)) for each in found]
    stops = [_lifted(n.where(each.when, each.stop, const(0))) for each in found]
    return (Range(n.least((size, *starts)), n.largest((const(0), *stops)), const(0), const(0)),)


def _sorted(n: ExprNumbers, ranges: Sequence[Range]) -> tuple[Range, ...] | None:
    """The ranges in an order of starts that holds in every call, where two can be active at once; None if there is
    no such order."""
    left, done = list(ranges), []
    while left:
        first = next((r for r in left if all(o is r or _may_precede(n, r, o) for o in left)), None)
        if first is None:
            return None
        left.remove(first)
        done.append(first)
    return tuple(done)


def _may_precede(n: ExprNumbers, a: Range, b: Range) -> bool:
    return n.is_ordered(a.start, b.start) or n.and_(a.when, b.when) is FALSE


def _guarded(n: ExprNumbers, ranges: Iterable[Range], assume: Expr, size: Expr) -> tuple[Range, ...]:
    """The ranges where the assumption holds, the whole sequence with the mask where it does not."""
    if assume is TRUE:
        return tuple(ranges)
    guarded = [Range(r.start, r.stop, r.full_start, r.full_stop, _lifted(n.and_(assume, r.when))) for r in ranges]
    return (*guarded, Range(const(0), size, const(0), const(0), _lifted(n.not_(assume))))


def _lifted(value: Value) -> Expr:
    return value if isinstance(value, Expr) else const(value)


def statistics_of(shape: MaskShape) -> tuple[Statistic, ...]:
    """What must be known of captured tensors before tiles are classified."""
    return shape.test.statistics


def walk_of(shape: MaskShape) -> Walk:
    """A walk that bounds further expressions over the same tiles."""
    return symbolic_walk(shape.test.statistics)

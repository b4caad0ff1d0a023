"""Which tiles of a mask can be skipped, and which need no mask.

A tile is a box of positions, q_min..q_max by kv_min..kv_max, ends included and inside the sequences. SKIP and FULL are
proofs for every pair of the box; PARTIAL is always allowed. `classify` answers for one box, `tile_test` writes the
answer as two Bool expressions in the ends of the box, for kernels and for whole tables.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.bounds import Box, Loader, Walk, bounds
from attncc.analysis.interval import Interval, point, unknown
from attncc.analysis.numbers import Value
from attncc.analysis.shape import side
from attncc.analysis.statistics import Extraction, Statistic
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN, ExprNumbers
from attncc.errors import LanguageError
from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, const, load, postorder

BOX_NAMES: Final = ("q_min", "q_max", "kv_min", "kv_max")


class Visit(enum.Enum):
    """What a kernel does with a tile."""

    SKIP = "no pair is visible"
    PARTIAL = "the mask decides pair by pair"
    FULL = "every pair is visible"


@dataclass(frozen=True, slots=True)
class TileTest:
    """A mask's classification of tiles, as expressions.

    `visit` False proves that no pair of the tile is visible, `full` True that all are. Both read the parameters
    q_min, q_max, kv_min and kv_max, those of `statistics`, and b, h, sizes and parameters as themselves; they read
    captures at most at indices that are the same for the whole tile.
    """

    visit: Expr
    full: Expr
    statistics: tuple[Statistic, ...] = ()


def classify(
    mask: Expr,
    q: Interval,
    kv: Interval,
    inputs: Mapping[str, int] | None = None,
    *,
    load: Loader | None = None,
    values: Mapping[Expr, Interval] | None = None,
) -> Visit:
    """The class of one tile; q and kv are closed. `inputs` holds b, h, sizes and parameters by name; one that is
    missing may be anything. `load` reads captures at single points, `values` bounds any other subexpression."""
    named = {name: point(value) for name, value in (inputs or {}).items()}
    found = bounds(mask, Box({**named, "q_idx": q, "kv_idx": kv}, values or {}), load)
    if found.lo is True:
        return Visit.FULL
    return Visit.PARTIAL if found.hi else Visit.SKIP


def tile_test(mask: Expr) -> TileTest:
    """The classification of tiles by a mask, as expressions. LanguageError if a parameter has a reserved name."""
    check_names(mask)
    extraction = Extraction()
    condition = extraction.run(mask)
    statistics = tuple(extraction.found.values())
    found = symbolic_walk(statistics).interval(condition)
    return TileTest(_lifted(found.hi), _lifted(found.lo), statistics)


def symbolic_walk(statistics: Sequence[Statistic] = (), positive: Iterable[Expr] = ()) -> Walk:
    """A walk that bounds expressions over a tile by expressions in the tile's ends; `positive` are taken to be so."""
    values = {Q_IDX: Interval(Q_MIN, Q_MAX), KV_IDX: Interval(KV_MIN, KV_MAX)}
    values |= {each.placeholder: each.interval for each in statistics}
    ordered = {Q_MAX: Q_MIN, KV_MAX: KV_MIN} | {s.largest: s.least for s in statistics if s.expr.scalar is Scalar.INDEX}
    numbers = ExprNumbers(ordered, positive)

    def leaf(expr: Expr) -> Interval | None:
        if expr in values:
            return values[expr]
        if side(expr) == "point" and expr.op is not Op.CONST:
            return point(expr)
        return unknown(expr.scalar) if expr.op in (Op.INPUT, Op.PARAM) else None

    return Walk(numbers, leaf, lambda expr, index: _load_at_point(numbers, expr, index))


def _load_at_point(n: ExprNumbers, expr: Expr, index: Sequence[Interval]) -> Interval:
    """A captured value whose index is one number for the whole tile; unknown where it is not."""
    single: Value = True
    for each in index:
        single = n.and_(single, n.and_(n.not_(each.nan), n.le(each.hi, each.lo)))
    if n.known(single) is False:
        return unknown(expr.scalar)
    # an index that is not single may lie outside of the tensor: it is replaced by 0, and the value is not used
    at = tuple(n.where(single, each.lo, n.const(0)) for each in index)
    value = load(str(expr.value), expr.scalar, *at)
    if expr.scalar is Scalar.BOOL:
        return Interval(n.and_(single, value), n.or_(n.not_(single), value))
    return Interval(value, value, n.not_(single))


def check_names(mask: Expr) -> None:
    """Raise LanguageError where a parameter of the mask has the name of a tile's end or of a statistic."""
    for expr in postorder(mask):
        name = str(expr.value)
        if expr.op is Op.PARAM and (name in BOX_NAMES or re.match(r"stat\d+(_|$)", name)):
            raise LanguageError(f"`{name}` is a name that tile tests use", hint="call the parameter otherwise")


def _lifted(value: Value) -> Expr:
    return value if isinstance(value, Expr) else const(value)

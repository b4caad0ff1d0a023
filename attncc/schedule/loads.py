"""What needs no guard in a call: reads proven to lie inside their tensor, divisions of ints proven not to be by 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.ir import AttentionSpec, Expr, Op, Scalar, postorder

#: The sizes of a call by the inputs that they bound.
BOUNDED_BY = {"b": "batch", "h": "heads", "q_idx": "q_len", "kv_idx": "kv_len"}


def loads_of(spec: AttentionSpec) -> tuple[Expr, ...]:
    """Every read of a captured tensor in score and mask, in a fixed order; its position is its number."""
    return tuple(expr for expr in postorder(spec.score, spec.mask) if expr.op is Op.LOAD)


def divisions_of(spec: AttentionSpec) -> tuple[Expr, ...]:
    """Every `//` and `%` of ints whose divisor is not a constant, in a fixed order; its position is its number."""
    return tuple(
        expr
        for expr in postorder(spec.score, spec.mask)
        if expr.op in (Op.FLOORDIV, Op.MOD) and expr.scalar is Scalar.INDEX and expr.args[1].op is not Op.CONST
    )


def call_box(sizes: Mapping[str, int], parameters: Mapping[str, int]) -> Box:
    """Where positions, sizes and parameters lie in a call."""
    inputs = {name: Interval(0, max(sizes[size] - 1, 0)) for name, size in BOUNDED_BY.items()}
    fixed = {**sizes, **parameters}
    return Box({**inputs, **{name: Interval(value, value) for name, value in fixed.items()}}, {})


def prove_loads(spec: AttentionSpec, box: Box, shapes: Mapping[str, Sequence[int]]) -> frozenset[int]:
    """The numbers of the loads whose indices all lie in [-n, n - 1]; `shapes` are those of the captured tensors."""
    return frozenset(
        number
        for number, load in enumerate(loads_of(spec))
        if all(_inside(index, size, box) for index, size in zip(load.args, shapes[str(load.value)], strict=True))
    )


def prove_plain_loads(spec: AttentionSpec, box: Box, shapes: Mapping[str, Sequence[int]]) -> frozenset[int]:
    """The numbers of the loads whose indices all lie in [0, n - 1], so that none counts from the end."""
    return frozenset(
        number
        for number, load in enumerate(loads_of(spec))
        if all(
            _inside(index, size, box) and bounds(index, box).lo >= 0
            for index, size in zip(load.args, shapes[str(load.value)], strict=True)
        )
    )


def prove_divisions(spec: AttentionSpec, box: Box) -> frozenset[int]:
    """The numbers of the divisions whose divisor is nowhere 0."""
    found = [bounds(division.args[1], box) for division in divisions_of(spec)]
    return frozenset(i for i, each in enumerate(found) if not each.nan and (each.lo > 0 or each.hi < 0))


def prove_positive(spec: AttentionSpec, box: Box) -> bool:
    """Whether every divisor is at least 1; without divisors there is nothing to prove."""
    found = [bounds(division.args[1], box) for division in divisions_of(spec)]
    return bool(found) and all(not each.nan and each.lo > 0 for each in found)


def _inside(index: Expr, size: int, box: Box) -> bool:
    found = bounds(index, box)
    if found.nan or not (math.isfinite(found.lo) and math.isfinite(found.hi)):
        return False
    return bool(-size <= found.lo and found.hi < size)

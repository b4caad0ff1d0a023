"""Which reads of captured tensors need no guard: their index is proven to lie inside for the sizes of a call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.ir import AttentionSpec, Expr, Op, postorder

#: The sizes of a call by the inputs that they bound.
BOUNDED_BY = {"b": "batch", "h": "heads", "q_idx": "q_len", "kv_idx": "kv_len"}


def loads_of(spec: AttentionSpec) -> tuple[Expr, ...]:
    """Every read of a captured tensor in score and mask, in a fixed order; its position is its number."""
    return tuple(expr for expr in postorder(spec.score, spec.mask) if expr.op is Op.LOAD)


def prove_loads(
    spec: AttentionSpec,
    sizes: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
    parameters: Mapping[str, int],
) -> frozenset[int]:
    """The numbers of the loads whose indices all lie in [-n, n - 1]; `shapes` are those of the captured tensors."""
    inputs = {name: Interval(0, max(sizes[size] - 1, 0)) for name, size in BOUNDED_BY.items()}
    fixed = {**sizes, **parameters}
    box = Box({**inputs, **{name: Interval(value, value) for name, value in fixed.items()}}, {})
    return frozenset(
        number
        for number, load in enumerate(loads_of(spec))
        if all(_inside(index, size, box) for index, size in zip(load.args, shapes[str(load.value)], strict=True))
    )


def _inside(index: Expr, size: int, box: Box) -> bool:
    found = bounds(index, box)
    if found.nan or not (math.isfinite(found.lo) and math.isfinite(found.hi)):
        return False
    return bool(-size <= found.lo and found.hi < size)

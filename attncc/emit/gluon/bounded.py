"""Scores that are proven to be bounded: their softmax needs no running maximum.

The largest score of a row is subtracted so that no power of 2 overflows. Where intervals prove that every score lies
between two numbers, one number in the middle serves all rows: nothing is searched for, and what was summed up
is never rescaled. A soft cap is such a score; the number is 0 then.

Weights lie in 2 ** -75 to 2 ** 75 at the most. In float32 the sum of 2 ** 31 of them does not overflow, and none
vanishes; nor does a product with v from 2 ** -40 to 2 ** 21, further with narrower bounds. The weights that multiply v
keep the 8 bits of bfloat16 at any size. In float16, which has none to spare below 2 ** -14, they would lose them.
"""

from __future__ import annotations

from typing import Final

from attncc.analysis.bounds import COMPARISONS, Box, bounds
from attncc.analysis.interval import Interval
from attncc.emit.triton.expressions import index_box, to_base_2
from attncc.ir import AttentionSpec, Expr, Op, Scalar

DTYPES: Final = frozenset({"bfloat16"})
#: Half of the distance between the bounds of scores, in base 2: a soft cap of 51.9.
WIDEST: Final = 75.0
#: Below the largest float32; a score beyond is infinite.
LARGEST: Final = 3.3e38
#: Where functions lie whatever they are of; NaN gives NaN. Tanh leaves room for the GPU's own.
RANGES: Final = {
    Op.TANH: Interval(-1.001, 1.001),
    Op.SIGMOID: Interval(-0.001, 1.001),
    Op.ERF: Interval(-1.001, 1.001),
    Op.SIN: Interval(-1.001, 1.001),
    Op.COS: Interval(-1.001, 1.001),
}


def fixed_shift(spec: AttentionSpec, dtype: str) -> float | None:
    """What is subtracted from every score in base 2 in place of the largest of its row; None where nothing is proven.

    A score that is NaN stays NaN.
    """
    if dtype not in DTYPES:
        return None
    found, compares = _outermost(spec.score)
    if compares:  # NaN takes the branch that a comparison with a number rules out
        return None
    box = index_box(spec)
    inputs = {**box.inputs, "score": Interval(-LARGEST, LARGEST)}
    score = bounds(to_base_2(spec.score), Box(inputs, {expr: RANGES[expr.op] for expr in found}))
    if score.nan or not (score.hi - score.lo) / 2 <= WIDEST:
        return None
    return float((score.lo + score.hi) / 2)


def _outermost(score: Expr) -> tuple[list[Expr], bool]:
    """The functions of `RANGES` that are in no other of them, and whether floats are compared outside of them."""
    found, compares, stack, seen = [], False, [score], {score}
    while stack:
        expr = stack.pop()
        if expr.op in RANGES:
            found.append(expr)
            continue
        compares |= expr.op in COMPARISONS and expr.args[0].scalar is Scalar.FLOAT
        stack += [arg for arg in expr.args if arg not in seen]
        seen.update(expr.args)
    return found, compares

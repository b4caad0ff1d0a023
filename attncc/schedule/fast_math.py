"""Where the approximate `tanh` of NVIDIA GPUs serves a variant.

The instruction `tanh.approx.f32` is off by at most 2 ** -11 of its result, an eighth of what rounding the result to
bfloat16 may cost, and as much as rounding it to float16. So scores of bfloat16 tensors bear it, where `tanh` enters
them in a way that cannot enlarge the error much; float16 leaves no room.

It serves the forward pass alone. There it made a soft cap 1.47 times as fast; backward, where the result stays in
registers for the derivative, kernels spilled more and were 0.75 times as fast (H100, D 128, S 8192, 2026-11-24). The
weights that both passes compute differ by no more than the instruction errs.
"""

from __future__ import annotations

from typing import Final

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.analysis.shape import depends
from attncc.ir import AttentionSpec, Expr, Op, Scalar, load, postorder, substitute
from attncc.passes.derive import FLAT, derive
from attncc.schedule.target import Problem, Target

#: The dtypes of q, k and v that round more than the instruction errs.
DTYPES: Final = frozenset({"bfloat16"})
#: By how much a score may change with the result of `tanh`: a score is then off by at most 2 ** -5, where it saturates.
MOST_STEEP: Final = 64.0
#: Scores that are judged; larger ones only saturate.
LARGEST: Final = 1e30
#: What stands for the result while the score is derived by it.
RESULT: Final = load("tanh:result", Scalar.FLOAT)


def approximate(spec: AttentionSpec, problem: Problem, target: Target) -> frozenset[Expr]:
    """The uses of `tanh` for which the GPU's instruction serves: scores, of tensors and on a GPU that allow it."""
    if not (target.fast_math and has_fast_tanh(target) and problem.dtype in DTYPES):
        return frozenset()
    dtypes = dict(zip((c.name for c in spec.captures), problem.capture_dtypes, strict=True))
    exact = {name for name, dtype in dtypes.items() if dtype == "float64"}
    over_score = [e for e in postorder(spec.score) if e.op is Op.TANH and "score" in depends(e)]
    return frozenset(e for e in over_score if not exact & _reads(e) and steepness(spec.score, e) <= MOST_STEEP)


def has_fast_tanh(target: Target) -> bool:
    """Whether the GPU has the instruction, as NVIDIA's have from sm_75 on; the interpreter has no GPU."""
    return target.backend == "triton" and target.arch is not None and target.arch.startswith("sm_")


def steepness(score: Expr, tanh: Expr) -> float:
    """The largest change of a score with the result of a `tanh` in it; infinite where that is compared or rounded."""
    held = substitute(score, {tanh: RESULT})
    reached = {RESULT}
    for expr in postorder(held):
        if reached.intersection(expr.args):
            reached.add(expr)
            if expr.op in FLAT:
                return float("inf")
    box = Box({"score": Interval(-LARGEST, LARGEST)}, {RESULT: Interval(-1.0, 1.0)})
    found = bounds(derive(held, RESULT), box)
    return float("inf") if found.nan else float(max(abs(found.lo), abs(found.hi)))


def _reads(expr: Expr) -> set[str]:
    return {str(e.value) for e in postorder(expr) if e.op is Op.LOAD}

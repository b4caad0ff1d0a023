"""Expressions in a Triton kernel: exact forms where signs are proven, reads of captured tensors, and base-2 scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.analysis.shape import depends
from attncc.analysis.tiles import BOX_NAMES
from attncc.emit.names import Namer
from attncc.emit.printer import Place, Printer, Text
from attncc.emit.spelling import Form
from attncc.emit.triton.spelling import EXACT, FAST_TANH, LOG2E, TRITON
from attncc.ir import (
    INPUTS,
    KV_IDX,
    Q_IDX,
    SCORE,
    AttentionSpec,
    Capture,
    Expr,
    Op,
    Origin,
    Scalar,
    apply,
    const,
    node,
    postorder,
)
from attncc.ir.syntax import Level

FLOAT_MAX: Final = 3.4028234663852886e38
#: Lengths up to which index arithmetic is done in 32 bits where it is proven to fit.
MAX_LENGTH: Final = 1 << 24
#: Largest size of a parameter that is passed in 32 bits.
MAX_PARAMETER: Final = 1 << 30
INT32_MAX: Final = (1 << 31) - 1
#: scale * log2(e) * q.k, which a kernel has at hand where the score enters linearly.
SCORE_LOG2: Final = node(Op.LOAD, (Q_IDX, KV_IDX), "score_log2", Scalar.FLOAT)

_POINTER: Final = {
    "float32": "*fp32",
    "float64": "*fp64",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "int64": "*i64",
    "int32": "*i32",
    "int16": "*i16",
    "int8": "*i8",
    "uint8": "*u8",
    "bool": "*i1",
}
_WIDEN: Final = {
    "float16": ".to(tl.float32)",
    "bfloat16": ".to(tl.float32)",
    "int16": ".to(tl.int32)",
    "int8": ".to(tl.int32)",
    "uint8": ".to(tl.int32)",
}


def pointer_type(dtype: str) -> str:
    """Triton's pointer type for a torch dtype name."""
    return _POINTER[dtype]


def index_box(spec: AttentionSpec) -> Box:
    """What is known of every index at any call: lengths up to `MAX_LENGTH`, parameters up to `MAX_PARAMETER`."""
    position, size = Interval(0, MAX_LENGTH - 1), Interval(0, MAX_LENGTH)
    inputs = {name: size if name in ("batch", "heads", "q_len", "kv_len") else position for name in INPUTS}
    del inputs["score"]
    inputs |= dict.fromkeys(BOX_NAMES, position)
    inputs |= {p.name: Interval(-MAX_PARAMETER, MAX_PARAMETER) for p in spec.parameters}
    return Box(inputs, {})


def to_base_2(score: Expr) -> Expr:
    """log2(e) times a score, with the factor moved to where it costs least: into the scale, or into what is computed
    once per program or row. Constants that would overflow become the largest finite float32."""
    match score.op:
        case _ if score is SCORE:
            return SCORE_LOG2
        case Op.CONST:
            value = float(score.value)  # type: ignore[arg-type]  # a Float constant
            return const(max(-FLOAT_MAX, min(value * LOG2E, FLOAT_MAX)) if math.isfinite(value) else value)
        case Op.ADD | Op.SUB:
            return apply(score.op, to_base_2(score.args[0]), to_base_2(score.args[1]))
        case Op.NEG:
            return apply(Op.NEG, to_base_2(score.args[0]))
        case Op.WHERE:
            return apply(Op.WHERE, score.args[0], to_base_2(score.args[1]), to_base_2(score.args[2]))
        case Op.DIV:
            return apply(Op.DIV, to_base_2(score.args[0]), score.args[1])
        case Op.MUL:
            cheap, other = sorted(score.args, key=lambda arg: len(depends(arg)))
            return apply(Op.MUL, to_base_2(cheap), other)
        case _:
            return apply(Op.MUL, score, const(LOG2E))


@dataclass
class Captures:
    """The captured tensors of a kernel: their names there, and which of their reads may lie outside.

    The last dimension is contiguous.

    A read becomes `tl.load` where its index is known to be non-negative and inside, otherwise a call of `read{rank}`,
    which wraps negative indices and gives 0 beyond. `ranks` collects the ranks for which that function is needed.
    """

    names: Mapping[str, str]
    dtypes: Mapping[str, str]
    unproven: frozenset[Expr]
    plain: frozenset[Expr]
    box: Box
    ranks: set[int] = field(default_factory=set)

    def is_plain(self, load: Expr) -> bool:
        """Whether a read needs neither a guard nor the size to count from the end."""
        return load in self.plain or (
            load not in self.unproven and all(_non_negative(arg, self.box) for arg in load.args)
        )

    def read(self, load: Expr, index: Sequence[Text]) -> str:
        """The text that reads one element."""
        capture = str(load.value)
        if load is SCORE_LOG2:
            return capture
        name = self.names[capture]
        widen = _WIDEN.get(self.dtypes[capture], "")
        if not index:
            return f"tl.load({name}_ptr){widen}"
        if self.is_plain(load):
            terms = [f"{text.at(Level.PRODUCT)} * {name}_stride_{i}" for i, text in enumerate(index[:-1])]
            return f"tl.load({name}_ptr + {' + '.join([*terms, index[-1].at(Level.SUM)])}){widen}"
        self.ranks.add(len(index))
        arguments = [f"{text.text}, {name}_size_{i}, {name}_stride_{i}" for i, text in enumerate(index)]
        return f"read{len(index)}({name}_ptr, {', '.join(arguments).rsplit(', ', 1)[0]}){widen}"


def _non_negative(expr: Expr, box: Box) -> bool:
    found = bounds(expr, box)
    return not found.nan and bool(found.lo >= 0)


def read_helper(rank: int) -> str:
    """The function that reads a tensor of this rank at an index that may lie outside."""
    dims = range(rank)
    parameters = ", ".join(f"i{d}, size_{d}, stride_{d}" for d in dims).rsplit(", ", 1)[0]
    wrap = "\n".join(f"    i{d} = tl.where(i{d} < 0, i{d} + size_{d}, i{d})" for d in dims)
    inside = " & ".join(f"(i{d} >= 0) & (i{d} < size_{d})" for d in dims)
    offset = " + ".join([*(f"i{d} * stride_{d}" for d in dims[:-1]), f"i{rank - 1}"])
    return f'''
@triton.jit
def read{rank}(ptr, {parameters}):
    """An element of a captured tensor: an index in [-size, -1] counts from the end, and beyond the value is 0."""
{wrap}
    inside = {inside}
    return tl.load(ptr + {offset}, mask=inside, other=0)
'''


class TritonPrinter(Printer):
    """Prints for Triton: plain `//` and `%` where both operands are proven to be non-negative, and the GPU's
    instruction for what may be approximate."""

    def __init__(
        self,
        namer: Namer,
        leaves: Mapping[str, str],
        captures: Captures,
        origins: Mapping[Expr, Origin],
        approximate: frozenset[Expr] = frozenset(),
    ) -> None:
        super().__init__(TRITON, namer, leaves, captures.read, origins)
        self.captures, self.approximate = captures, approximate

    def form(self, expr: Expr) -> Form:
        """The row of the table, the exact operator, or the instruction."""
        if expr in self.approximate:
            return FAST_TANH
        divides = expr.op in EXACT and expr.scalar is Scalar.INDEX
        if divides and all(_non_negative(arg, self.captures.box) for arg in expr.args):
            return EXACT[expr.op]
        return super().form(expr)


#: Where values are held in a kernel: what changes with neither position, with the owned one, with both.
ONCE: Final = Place("once", frozenset({"b", "h"}))
EVERYTHING: Final = frozenset({"score", "b", "h", "q_idx", "kv_idx"})


def rows(axis: str) -> Place:
    """The place of what changes with the position that a program owns."""
    return Place("rows", frozenset({"b", "h", axis}))


def body(loop: str) -> Place:
    """The inside of a loop over tiles."""
    return Place(loop, EVERYTHING)


def needs_64_bits(spec: AttentionSpec) -> bool:
    """Whether some index may exceed 32 bits for lengths up to `MAX_LENGTH`."""
    box = index_box(spec)
    for expr in postorder(spec.score, spec.mask):
        if expr.scalar is Scalar.INDEX and expr.op not in (Op.LOAD, Op.PARAM):
            found = bounds(expr, box)
            if not _reads(expr) and (found.lo < -INT32_MAX or found.hi > INT32_MAX):
                return True
    return False


def _reads(expr: Expr) -> bool:
    return any(each.op is Op.LOAD for each in postorder(expr))


def captures_of(spec: AttentionSpec, *roots: Expr) -> tuple[Capture, ...]:
    """The captures that the expressions read, in the order of the spec."""
    used = {str(e.value) for e in postorder(*roots) if e.op is Op.LOAD and e is not SCORE_LOG2}
    return tuple(capture for capture in spec.captures if capture.name in used)

"""Captured tensors without elements: no index fits them, so every read leaves them.

Kernels read at the nearest index that there is. So that there is one, such a tensor is made one long, and its reads are
moved away from that element: a visible pair that reads it is an error or a NaN row, as with any other tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from attncc.api.program import Program, program_of
from attncc.ir import AttentionSpec, Expr, Op, apply, const, postorder, substitute
from attncc.ir.rewrite import with_args


def without_empty(program: Program, captures: Sequence[Tensor]) -> tuple[Program, tuple[Tensor, ...]]:
    """The same program for captured tensors that all have elements, and these."""
    if all(0 not in tensor.shape for tensor in captures):
        return program, tuple(captures)
    spec = program.spec
    lost = {c.name: _lost(tensor) for c, tensor in zip(spec.captures, captures, strict=True) if 0 in tensor.shape}
    return program_of(_moved(spec, lost)), tuple(_lengthened(tensor) for tensor in captures)


def _lost(tensor: Tensor) -> tuple[int, ...]:
    return tuple(dim for dim, size in enumerate(tensor.shape) if size == 0)


def _lengthened(tensor: Tensor) -> Tensor:
    """The tensor with one zero where it has a size of 0."""
    pads = [end for size in reversed(tensor.shape) for end in (0, int(size == 0))]
    if 0 not in tensor.shape:
        return tensor
    if tensor.is_floating_point():
        return functional.pad(tensor, pads)
    return tensor.new_zeros([max(size, 1) for size in tensor.shape])


def _moved(spec: AttentionSpec, lost: dict[str, tuple[int, ...]]) -> AttentionSpec:
    """The spec with every read of these captures beyond their one element."""
    reads = {
        e: _beyond(e, lost[str(e.value)])
        for e in postorder(spec.score, spec.mask)
        if e.op is Op.LOAD and e.value in lost
    }
    origins = {reads.get(expr, expr): origin for expr, origin in spec.origins.items()}
    captures = tuple(
        replace(
            c,
            dims=tuple(
                1 if d in lost.get(c.name, ()) and isinstance(dim, int) else dim for d, dim in enumerate(c.dims)
            ),
        )
        for c in spec.captures
    )
    return replace(
        spec, score=substitute(spec.score, reads), mask=substitute(spec.mask, reads), captures=captures, origins=origins
    )


def _beyond(read: Expr, dims: tuple[int, ...]) -> Expr:
    return with_args(read, tuple(_away(index) if d in dims else index for d, index in enumerate(read.args)))


def _away(index: Expr) -> Expr:
    """An index that is neither 0 nor -1, and differs where the given ones do."""
    step = apply(Op.WHERE, apply(Op.GE, index, const(0)), const(1), const(-1))
    return apply(Op.ADD, index, step)

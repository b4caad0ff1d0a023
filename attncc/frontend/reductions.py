"""What torch's reductions and small products mean on arrays of expressions: they are unrolled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from attncc.frontend.algebra import abs_, add, and_, div, eq, exp, max_, min_, mul, ne, or_, pow_, sqrt, sub, where
from attncc.frontend.indexing import broadcast, common_shape
from attncc.frontend.shapes import STRUCTURED, Structured, convert, structured
from attncc.frontend.tracer import Tracer
from attncc.frontend.values import Grid, TracedTensor
from attncc.ir import Expr, Op, Scalar, apply, cast, const


def _reduced(tracer: Tracer, input: Grid, dim: Any, keepdim: bool, join: Callable[[list[Expr]], Expr]) -> TracedTensor:
    """The elements along some dimensions (None: all) joined into one."""
    layout = torch.arange(len(input.items), device="cpu").reshape(input.shape)
    rank = layout.dim()
    dims = range(rank) if dim is None or dim == () else [dim] if isinstance(dim, int) else dim
    over = sorted({each % rank for each in dims}) if rank else []
    kept = [each for each in range(rank) if each not in over]
    rows = layout.permute(*kept, *over).reshape([layout.shape[each] for each in kept] + [-1]) if rank else layout[None]
    shape = tuple(1 if each in over else layout.shape[each] for each in range(rank) if keepdim or each not in over)
    joined = [join([input.items[i] for i in row]) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
    return tracer.wrap(*joined, shape=shape)


def _total(items: list[Expr]) -> Expr:
    numbers = [cast(each, max(each.scalar, Scalar.INDEX)) for each in items]
    return reduce(add, numbers) if numbers else const(0.0)


def _product(items: list[Expr]) -> Expr:
    numbers = [cast(each, max(each.scalar, Scalar.INDEX)) for each in items]
    return reduce(mul, numbers) if numbers else const(1.0)


@structured("sum", "nansum")
def _sum(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    return _as(tracer, _reduced(tracer, input, dim, keepdim, _total), dtype)


@structured("prod")
def _prod(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    return _as(tracer, _reduced(tracer, input, dim, keepdim, _product), dtype)


def _as(tracer: Tracer, value: TracedTensor, dtype: torch.dtype | None) -> TracedTensor:
    assert isinstance(value.content, Grid)
    return value if dtype is None else convert(tracer, value.content, dtype)


@structured("mean")
def _mean(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    def average(items: list[Expr]) -> Expr:
        return div(_total(items), float(len(items)))

    return _as(tracer, _reduced(tracer, input, dim, keepdim, average), dtype)


@structured("any")
def _any(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    return _reduced(tracer, input, dim, keepdim, lambda items: _logic(or_, items, False))


@structured("all")
def _all(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    return _reduced(tracer, input, dim, keepdim, lambda items: _logic(and_, items, True))


def _logic(join: Callable[..., Expr], items: list[Expr], empty: bool) -> Expr:
    return reduce(join, [cast(each, Scalar.BOOL) for each in items]) if items else const(empty)


@structured("amax")
def _amax(tracer: Tracer, input: Grid, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    return _extreme(tracer, input, dim, keepdim, max_)


@structured("amin")
def _amin(tracer: Tracer, input: Grid, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    return _extreme(tracer, input, dim, keepdim, min_)


def _extreme(tracer: Tracer, input: Grid, dim: Any, keepdim: bool, choose: Callable[..., Expr]) -> TracedTensor:
    if not input.items:
        tracer.refuse("the largest or smallest of no elements has no meaning", "give it a dimension that has elements")
    return _reduced(tracer, input, dim, keepdim, lambda items: reduce(choose, items))


def _max_or_min(name: str, choose: Callable[..., Expr]) -> Structured:
    def compute(tracer: Tracer, input: Grid, *args: Any, **kwargs: Any) -> TracedTensor:
        other = kwargs.get("other", args[0] if args else None)
        if isinstance(other, Grid):
            shape = common_shape(input.shape, other.shape)
            pairs = zip(broadcast(input, shape).items, broadcast(other, shape).items, strict=True)
            return tracer.wrap(*(choose(*pair) for pair in pairs), shape=shape)
        if args or kwargs:
            message = f"`{name}` along a dimension also gives positions, which cannot be compiled"
            tracer.refuse(message, f"use `torch.a{name}(x, dim)`")
        return _extreme(tracer, input, None, False, choose)

    return compute


STRUCTURED.update(max=_max_or_min("max", max_), min=_max_or_min("min", min_))


@structured("logsumexp", "special_logsumexp")
def _logsumexp(tracer: Tracer, input: Grid, dim: Any, keepdim: bool = False) -> TracedTensor:
    def join(items: list[Expr]) -> Expr:
        top = reduce(max_, items)
        shift = where(eq(abs_(top), math.inf), 0.0, top)
        return add(apply(Op.LOG, reduce(add, [exp(sub(each, shift)) for each in items])), shift)

    return _reduced(tracer, input, dim, keepdim, join)


@structured("norm", "linalg_norm", "linalg_vector_norm")
def _norm(
    tracer: Tracer,
    input: Grid,
    p: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
    *,
    ord: Any = None,
    **_: Any,
) -> TracedTensor:
    power = {None: 2, "fro": 2}.get(ord if ord is not None else p, ord if ord is not None else p)

    def size(items: list[Expr]) -> Expr:
        values = [cast(each, Scalar.FLOAT) for each in items]
        if power == 2:
            return sqrt(_total([mul(each, each) for each in values]))
        if power == 0:
            return _total([cast(ne(each, 0.0), Scalar.FLOAT) for each in values])
        if power == math.inf or power == -math.inf:
            return reduce(max_ if power > 0 else min_, [abs_(each) for each in values])
        if power == 1:
            return _total([abs_(each) for each in values])
        return pow_(_total([pow_(abs_(each), float(power)) for each in values]), 1.0 / float(power))

    return _as(tracer, _reduced(tracer, input, dim, keepdim, size), dtype)


@structured("dot", "inner", "vdot", "linalg_vecdot")
def _dot(tracer: Tracer, input: Grid, other: Grid, **_: Any) -> TracedTensor:
    if len(input.shape) != 1 or input.shape != other.shape:
        tracer.refuse(
            f"the product of arrays of shapes {input.shape} and {other.shape} is not a number",
            "multiply and sum over a dimension",
        )
    return tracer.wrap(_total([mul(a, b) for a, b in zip(input.items, other.items, strict=True)]))


@structured("matmul", "__matmul__", "mv", "mm")
def _matmul(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    left, right = (torch.arange(len(each.items), device="cpu").reshape(each.shape) for each in (input, other))
    if not 1 <= left.dim() <= 2 or not 1 <= right.dim() <= 2 or left.shape[-1] != right.shape[0]:
        tracer.refuse(
            f"arrays of shapes {input.shape} and {other.shape} cannot be multiplied", "the inner sizes must agree"
        )
    rows, columns = left.reshape(-1, left.shape[-1]).tolist(), right.reshape(right.shape[0], -1).T.tolist()
    items = [
        _total([mul(input.items[i], other.items[j]) for i, j in zip(row, column, strict=True)])
        for row in rows
        for column in columns
    ]
    return tracer.wrap(*items, shape=(*left.shape[:-1], *right.shape[1:]))


@structured("__rmatmul__")
def _rmatmul(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    result: TracedTensor = _matmul(tracer, other, input)
    return result


@structured("softmax", "special_softmax")
def _softmax(tracer: Tracer, input: Grid, dim: int, **_: Any) -> TracedTensor:
    if len(input.shape) > 1:
        tracer.refuse(
            "softmax over an array of more than one dimension cannot be compiled", "index down to one row first"
        )
    if not input.shape:
        return tracer.wrap(const(1.0))
    top = reduce(max_, input.items)
    parts = [exp(sub(each, top)) for each in input.items]
    total = reduce(add, parts)
    return tracer.wrap(*(div(each, total) for each in parts), shape=input.shape)

"""What torch's factories, conversions, shape functions and reductions mean on traced values.

Arrays of expressions are small (they are unrolled), and their shapes are known: torch itself lays them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final

import torch

from attncc.frontend.algebra import abs_, add, and_, div, eq, exp, max_, min_, mul, ne, or_, pow_, sqrt, sub, where
from attncc.frontend.indexing import broadcast, common_shape
from attncc.frontend.tracer import INTEGERS, MAX_ELEMENTS, Tracer
from attncc.frontend.values import Gather, Grid, TracedTensor
from attncc.ir import Expr, Op, Scalar, apply, cast, const, narrow

Structured = Callable[..., Any]
#: By torch's names. Each takes the tracer, then torch's arguments; tensors come as `Grid`.
STRUCTURED: Final[dict[str, Structured]] = {}


def _means(*names: str) -> Callable[[Structured], Structured]:
    def enter(compute: Structured) -> Structured:
        STRUCTURED.update(dict.fromkeys(names, compute))
        return compute

    return enter


# Conversions.


def convert(tracer: Tracer, grid: Grid, dtype: torch.dtype) -> TracedTensor:
    """An array as another dtype: half precision rounds, float to int truncates."""
    if dtype is torch.bool:
        items = tuple(cast(each, Scalar.BOOL) for each in grid.items)
    elif dtype in (torch.float32, torch.float64):
        items = tuple(cast(each, Scalar.FLOAT) for each in grid.items)
    elif dtype in (torch.bfloat16, torch.float16):
        items = tuple(narrow(each, str(dtype).removeprefix("torch.")) for each in grid.items)
    elif dtype in (torch.int32, torch.int64) or (dtype in INTEGERS and all(each.scalar is Scalar.BOOL for each in grid.items)):
        items = tuple(cast(each, Scalar.INDEX) for each in grid.items)
    else:
        hint = (
            "convert to torch.int32 or torch.int64"
            if dtype in INTEGERS
            else "attncc computes with bools, ints and floats"
        )
        tracer.refuse(
            f"a traced value cannot become {dtype}, whose range is small"
            if dtype in INTEGERS
            else f"a traced value cannot become {dtype}",
            hint,
        )
    return tracer.wrap(*items, shape=grid.shape, dtype=dtype)


for _name, _dtype in (
    ("float", torch.float32),
    ("double", torch.float64),
    ("half", torch.float16),
    ("bfloat16", torch.bfloat16),
    ("int", torch.int32),
    ("long", torch.int64),
    ("short", torch.int16),
    ("char", torch.int8),
    ("byte", torch.uint8),
    ("bool", torch.bool),
):

    def _to_dtype(tracer: Tracer, input: Grid, *_: Any, to: torch.dtype = _dtype, **__: Any) -> TracedTensor:
        return convert(tracer, input, to)

    STRUCTURED[_name] = _to_dtype


@_means("to", "type")
def _to(tracer: Tracer, input: Grid, *args: Any, **kwargs: Any) -> Any:
    asked = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)]
    like = next((each for each in (*args, *kwargs.values()) if isinstance(each, Grid)), None)
    if like is not None:
        return _type_as(tracer, input, like)
    if any(isinstance(each, str) and each.startswith("torch.") for each in args):
        tracer.refuse("a tensor type is named by a text", "name a dtype: `x.to(torch.float32)`")
    return convert(tracer, input, asked[0]) if asked else tracer.wrap(*input.items, shape=input.shape)


@_means("type_as")
def _type_as(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    kind = max((each.scalar for each in other.items), default=Scalar.FLOAT)
    items = (cast(each, kind) for each in input.items)
    return tracer.wrap(*items, shape=input.shape)


@_means(
    "clone", "contiguous", "cpu", "cuda", "pin_memory", "requires_grad_", "resolve_conj", "resolve_neg", "real", "alias"
)
def _unchanged(tracer: Tracer, input: Grid, *_: Any, **__: Any) -> TracedTensor:
    return tracer.wrap(*input.items, shape=input.shape)


@_means("detach", "get data")
def _detached(tracer: Tracer, input: Grid) -> TracedTensor:
    if any(each.scalar is Scalar.FLOAT for each in input.items):
        tracer.refuse(
            "the gradient of a traced value cannot be stopped",
            "detach the captured tensor before it is used: `t.detach()[h]`",
        )
    return tracer.wrap(*input.items, shape=input.shape)


# Factories.


def _filled(tracer: Tracer, shape: Sequence[int], value: Grid, dtype: torch.dtype | None) -> TracedTensor:
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        tracer.refuse(
            f"an array of {count} elements would be made for every pair; at most {MAX_ELEMENTS} are unrolled",
            limit=True,
        )
    grid = Grid(tuple(shape), value.items * count)
    return convert(tracer, grid, dtype) if dtype is not None else tracer.wrap(*grid.items, shape=grid.shape)


def _value(given: Any) -> Grid:
    """A number or a 0-d array."""
    return given if isinstance(given, Grid) else Grid((), (const(given),))


def sizes(given: Sequence[Any]) -> tuple[int, ...]:
    """A shape given as one sequence or as numbers."""
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = given[0]
    return tuple(int(each) for each in given)


@_means("zeros_like")
def _zeros_like(tracer: Tracer, input: Grid, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _like(tracer, input, const(0), dtype)


@_means("ones_like")
def _ones_like(tracer: Tracer, input: Grid, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _like(tracer, input, const(1), dtype)


@_means("full_like")
def _full_like(
    tracer: Tracer, input: Grid, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any
) -> TracedTensor:
    return _like(tracer, input, _value(fill_value).items[0], dtype)


def _like(tracer: Tracer, input: Grid, value: Expr, dtype: torch.dtype | None) -> TracedTensor:
    kind = max((each.scalar for each in input.items), default=Scalar.FLOAT)
    filled = Grid(input.shape, (value if dtype is not None else cast(value, kind),) * len(input.items))
    return convert(tracer, filled, dtype) if dtype is not None else tracer.wrap(*filled.items, shape=input.shape)


@_means("new_zeros")
def _new_zeros(tracer: Tracer, input: Grid, *size: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, size, Grid((), (const(0),)), **kwargs)


@_means("new_ones")
def _new_ones(tracer: Tracer, input: Grid, *size: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, size, Grid((), (const(1),)), **kwargs)


@_means("new_full")
def _new_full(tracer: Tracer, input: Grid, size: Any, fill_value: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, (size,), _value(fill_value), **kwargs)


def _new(
    tracer: Tracer, input: Grid, given: tuple[Any, ...], value: Grid, *, size: Any = None, dtype: Any = None, **_: Any
) -> TracedTensor:
    kind = max((each.scalar for each in input.items), default=Scalar.FLOAT)
    items = value.items if dtype is not None else tuple(cast(each, kind) for each in value.items)
    return _filled(tracer, sizes(given if size is None else (size,)), Grid((), items), dtype)


@_means("new_tensor")
def _new_tensor(tracer: Tracer, input: Grid, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return as_tensor(tracer, data, dtype)


@_means("full")
def _full(tracer: Tracer, size: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _filled(tracer, sizes((size,)), _value(fill_value), dtype)


@_means("tensor", "as_tensor", "asarray", "scalar_tensor")
def _tensor(tracer: Tracer, data: Any, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return as_tensor(tracer, data, dtype)


def as_tensor(tracer: Tracer, data: Any, dtype: torch.dtype | None) -> TracedTensor:
    """Nested lists of numbers and traced values as an array."""
    grid = (
        _stacked(tracer, [as_tensor(tracer, each, None).content for each in data])
        if isinstance(data, list | tuple)
        else data
    )
    grid = _value(grid)
    return convert(tracer, grid, dtype) if dtype is not None else tracer.wrap(*grid.items, shape=grid.shape)


# Shape functions: torch lays out the numbers of the elements.


def laid_out(tracer: Tracer, input: Grid, change: Callable[[torch.Tensor], torch.Tensor]) -> TracedTensor:
    """The elements as torch would move them."""
    layout = change(torch.arange(len(input.items), device="cpu").reshape(input.shape))
    return tracer.wrap(*(input.items[i] for i in layout.flatten().tolist()), shape=tuple(layout.shape))


def _layout(name: str) -> Structured:
    def move(tracer: Tracer, input: Grid, *args: Any, **kwargs: Any) -> TracedTensor:
        return laid_out(tracer, input, lambda layout: getattr(layout, name)(*args, **kwargs))

    return move


for _name in (
    *("unsqueeze", "squeeze", "view", "reshape", "flatten", "expand", "permute", "transpose", "flip", "roll", "t"),
    *("swapaxes", "swapdims", "movedim", "select", "narrow", "repeat", "tile", "ravel", "unflatten", "diagonal"),
    *("broadcast_to"),
):
    STRUCTURED[_name] = _layout(_name)


@_means("get T", "get mT", "get H")
def _transposed(tracer: Tracer, input: Grid) -> TracedTensor:
    return laid_out(tracer, input, lambda layout: layout.mT if layout.dim() > 1 else layout)


def _parts(name: str) -> Structured:
    def divide(tracer: Tracer, input: Grid, *args: Any, **kwargs: Any) -> tuple[TracedTensor, ...]:
        layout = torch.arange(len(input.items), device="cpu").reshape(input.shape)
        parts = getattr(layout, name)(*args, **kwargs)
        return tuple(
            tracer.wrap(*(input.items[i] for i in part.flatten().tolist()), shape=tuple(part.shape)) for part in parts
        )

    return divide


STRUCTURED.update({name: _parts(name) for name in ("unbind", "split", "chunk", "tensor_split")})


@_means("stack")
def _stack(tracer: Tracer, tensors: Sequence[Grid], dim: int = 0) -> TracedTensor:
    return _joined(tracer, tensors, lambda layouts: torch.stack(layouts, dim))


@_means("cat", "concat", "concatenate")
def _cat(tracer: Tracer, tensors: Sequence[Grid], dim: int = 0) -> TracedTensor:
    return _joined(tracer, tensors, lambda layouts: torch.cat(layouts, dim))


def _joined(tracer: Tracer, grids: Sequence[Grid], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> TracedTensor:
    layouts, items = [], []
    for grid in grids:
        layouts.append(torch.arange(len(items), len(items) + len(grid.items), device="cpu").reshape(grid.shape))
        items += grid.items
    layout = join(layouts)
    kind = max((each.scalar for each in items), default=Scalar.FLOAT)
    return tracer.wrap(*(cast(items[i], kind) for i in layout.flatten().tolist()), shape=tuple(layout.shape))


def _stacked(tracer: Tracer, grids: Sequence[Grid | Gather]) -> Grid:
    held = [each if isinstance(each, Grid) else tracer.elements(each) for each in grids]
    found = _joined(tracer, held, torch.stack).content
    assert isinstance(found, Grid)
    return found


# Reductions.


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


@_means("sum", "nansum")
def _sum(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    return _as(tracer, _reduced(tracer, input, dim, keepdim, _total), dtype)


@_means("prod")
def _prod(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    return _as(tracer, _reduced(tracer, input, dim, keepdim, _product), dtype)


def _as(tracer: Tracer, value: TracedTensor, dtype: torch.dtype | None) -> TracedTensor:
    assert isinstance(value.content, Grid)
    return value if dtype is None else convert(tracer, value.content, dtype)


@_means("mean")
def _mean(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> TracedTensor:
    def average(items: list[Expr]) -> Expr:
        return div(_total(items), float(len(items)))

    return _as(tracer, _reduced(tracer, input, dim, keepdim, average), dtype)


@_means("any")
def _any(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    return _reduced(tracer, input, dim, keepdim, lambda items: _logic(or_, items, False))


@_means("all")
def _all(tracer: Tracer, input: Grid, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    return _reduced(tracer, input, dim, keepdim, lambda items: _logic(and_, items, True))


def _logic(join: Callable[..., Expr], items: list[Expr], empty: bool) -> Expr:
    return reduce(join, [cast(each, Scalar.BOOL) for each in items]) if items else const(empty)


@_means("amax")
def _amax(tracer: Tracer, input: Grid, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    return _extreme(tracer, input, dim, keepdim, max_)


@_means("amin")
def _amin(tracer: Tracer, input: Grid, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    return _extreme(tracer, input, dim, keepdim, min_)


def _extreme(tracer: Tracer, input: Grid, dim: Any, keepdim: bool, choose: Callable[..., Expr]) -> TracedTensor:
    if not input.items:
        tracer.refuse("the largest or smallest of no elements has no meaning")
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


@_means("logsumexp", "special_logsumexp")
def _logsumexp(tracer: Tracer, input: Grid, dim: Any, keepdim: bool = False) -> TracedTensor:
    def join(items: list[Expr]) -> Expr:
        top = reduce(max_, items)
        shift = where(eq(abs_(top), math.inf), 0.0, top)
        return add(apply(Op.LOG, reduce(add, [exp(sub(each, shift)) for each in items])), shift)

    return _reduced(tracer, input, dim, keepdim, join)


@_means("norm", "linalg_norm", "linalg_vector_norm")
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


@_means("dot", "inner", "vdot", "linalg_vecdot")
def _dot(tracer: Tracer, input: Grid, other: Grid, **_: Any) -> TracedTensor:
    if len(input.shape) != 1 or input.shape != other.shape:
        tracer.refuse(f"the product of arrays of shapes {input.shape} and {other.shape} is not a number")
    return tracer.wrap(_total([mul(a, b) for a, b in zip(input.items, other.items, strict=True)]))


@_means("matmul", "__matmul__", "mv", "mm")
def _matmul(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    left, right = (torch.arange(len(each.items), device="cpu").reshape(each.shape) for each in (input, other))
    if not 1 <= left.dim() <= 2 or not 1 <= right.dim() <= 2 or left.shape[-1] != right.shape[0]:
        tracer.refuse(f"arrays of shapes {input.shape} and {other.shape} cannot be multiplied")
    rows, columns = left.reshape(-1, left.shape[-1]).tolist(), right.reshape(right.shape[0], -1).T.tolist()
    items = [
        _total([mul(input.items[i], other.items[j]) for i, j in zip(row, column, strict=True)])
        for row in rows
        for column in columns
    ]
    return tracer.wrap(*items, shape=(*left.shape[:-1], *right.shape[1:]))


@_means("__rmatmul__")
def _rmatmul(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    result: TracedTensor = _matmul(tracer, other, input)
    return result


@_means("softmax", "special_softmax")
def _softmax(tracer: Tracer, input: Grid, dim: int, **_: Any) -> TracedTensor:
    if len(input.shape) > 1:
        tracer.refuse("softmax over an array of more than one dimension cannot be compiled")
    if not input.shape:
        return tracer.wrap(const(1.0))
    top = reduce(max_, input.items)
    parts = [exp(sub(each, top)) for each in input.items]
    total = reduce(add, parts)
    return tracer.wrap(*(div(each, total) for each in parts), shape=input.shape)

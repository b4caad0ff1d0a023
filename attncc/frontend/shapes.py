"""What torch's factories, conversions, shape functions and reductions mean on traced values.

Arrays of expressions are small (they are unrolled), and their shapes are known: torch itself lays them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from attncc.frontend.tracer import INTEGERS, MAX_ELEMENTS, Tracer
from attncc.frontend.values import Gather, Grid, TracedTensor
from attncc.ir import Expr, Scalar, cast, const, narrow

Structured = Callable[..., Any]
#: By torch's names. Each takes the tracer, then torch's arguments; tensors come as `Grid`.
STRUCTURED: Final[dict[str, Structured]] = {}


def structured(*names: str) -> Callable[[Structured], Structured]:
    """Enter a definition under names of torch."""

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
    elif dtype in (torch.int32, torch.int64) or (
        dtype in INTEGERS and all(each.scalar is Scalar.BOOL for each in grid.items)
    ):
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


@structured("to", "type")
def _to(tracer: Tracer, input: Grid, *args: Any, **kwargs: Any) -> Any:
    asked = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)]
    like = next((each for each in (*args, *kwargs.values()) if isinstance(each, Grid)), None)
    if like is not None:
        return _type_as(tracer, input, like)
    if any(isinstance(each, str) and each.startswith("torch.") for each in args):
        tracer.refuse("a tensor type is named by a text", "name a dtype: `x.to(torch.float32)`")
    return convert(tracer, input, asked[0]) if asked else tracer.wrap(*input.items, shape=input.shape)


@structured("type_as")
def _type_as(tracer: Tracer, input: Grid, other: Grid) -> TracedTensor:
    kind = max((each.scalar for each in other.items), default=Scalar.FLOAT)
    items = (cast(each, kind) for each in input.items)
    return tracer.wrap(*items, shape=input.shape)


@structured(
    "clone", "contiguous", "cpu", "cuda", "pin_memory", "requires_grad_", "resolve_conj", "resolve_neg", "real", "alias"
)
def _unchanged(tracer: Tracer, input: Grid, *_: Any, **__: Any) -> TracedTensor:
    return tracer.wrap(*input.items, shape=input.shape)


@structured("detach", "get data")
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


@structured("zeros_like")
def _zeros_like(tracer: Tracer, input: Grid, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _like(tracer, input, const(0), dtype)


@structured("ones_like")
def _ones_like(tracer: Tracer, input: Grid, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _like(tracer, input, const(1), dtype)


@structured("full_like")
def _full_like(
    tracer: Tracer, input: Grid, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any
) -> TracedTensor:
    return _like(tracer, input, _value(fill_value).items[0], dtype)


def _like(tracer: Tracer, input: Grid, value: Expr, dtype: torch.dtype | None) -> TracedTensor:
    kind = max((each.scalar for each in input.items), default=Scalar.FLOAT)
    filled = Grid(input.shape, (value if dtype is not None else cast(value, kind),) * len(input.items))
    return convert(tracer, filled, dtype) if dtype is not None else tracer.wrap(*filled.items, shape=input.shape)


@structured("new_zeros")
def _new_zeros(tracer: Tracer, input: Grid, *size: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, size, Grid((), (const(0),)), **kwargs)


@structured("new_ones")
def _new_ones(tracer: Tracer, input: Grid, *size: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, size, Grid((), (const(1),)), **kwargs)


@structured("new_full")
def _new_full(tracer: Tracer, input: Grid, size: Any, fill_value: Any, **kwargs: Any) -> TracedTensor:
    return _new(tracer, input, (size,), _value(fill_value), **kwargs)


def _new(
    tracer: Tracer, input: Grid, given: tuple[Any, ...], value: Grid, *, size: Any = None, dtype: Any = None, **_: Any
) -> TracedTensor:
    kind = max((each.scalar for each in input.items), default=Scalar.FLOAT)
    items = value.items if dtype is not None else tuple(cast(each, kind) for each in value.items)
    return _filled(tracer, sizes(given if size is None else (size,)), Grid((), items), dtype)


@structured("new_tensor")
def _new_tensor(tracer: Tracer, input: Grid, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return as_tensor(tracer, data, dtype)


@structured("full")
def _full(tracer: Tracer, size: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> TracedTensor:
    return _filled(tracer, sizes((size,)), _value(fill_value), dtype)


@structured("tensor", "as_tensor", "asarray", "scalar_tensor")
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


@structured("get T", "get mT", "get H")
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


@structured("stack")
def _stack(tracer: Tracer, tensors: Sequence[Grid], dim: int = 0) -> TracedTensor:
    return _joined(tracer, tensors, lambda layouts: torch.stack(layouts, dim))


@structured("cat", "concat", "concatenate")
def _cat(tracer: Tracer, tensors: Sequence[Grid], dim: int = 0) -> TracedTensor:
    return _joined(tracer, tensors, lambda layouts: torch.cat(layouts, dim))


def _joined(tracer: Tracer, grids: Sequence[Grid], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> TracedTensor:
    layouts: list[torch.Tensor] = []
    items: list[Expr] = []
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

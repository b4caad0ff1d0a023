"""Indexing while tracing: elements of captured tensors and of arrays of expressions.

An index of numbers and traced ints alone becomes a `Gather`, read where it ends in single elements. Everything else in
an index (slices, None, lists, index tensors) is first done to the captured tensor itself, as a recorded operation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from attncc.frontend.tracer import MAX_ELEMENTS, Tracer
from attncc.frontend.values import Gather, Grid, TracedInt, TracedTensor
from attncc.ir import Expr, Scalar, const

Record = Callable[[torch.Tensor, Any], torch.Tensor]
WHOLE = slice(None)


def index(tracer: Tracer, content: Grid | Gather, key: Any, record: Record) -> Grid | Gather:
    """What an index selects; `record` does an index without traced values to a captured tensor."""
    parts = _expanded(tracer, list(key) if isinstance(key, tuple) else [key], len(content.shape))
    if isinstance(content, Grid):
        return _of_grid(tracer, content, parts)
    content, parts = _plain_first(tracer, content, parts, record)
    chosen = [_position(tracer, part) for part in parts]
    arrays = [each for each in chosen if isinstance(each, Grid) and each.shape]
    if arrays:
        return _of_arrays(tracer, content, chosen, arrays)
    found = list(content.index)
    for dim, each in zip(content.free, chosen, strict=True):
        found[dim] = each.items[0] if isinstance(each, Grid) else None
    return Gather(content.source, tuple(found))


def _expanded(tracer: Tracer, parts: list[Any], rank: int) -> list[Any]:
    """The index with `...` spelled out and every dimension named."""
    used = sum(part is not None and part is not Ellipsis for part in parts)
    if used > rank:
        many = f"{rank} dimension{'s' if rank != 1 else ''}"
        hint = (
            f"write {'one index' if rank == 1 else f'{rank} indices'}" if rank else "a single number cannot be indexed"
        )
        tracer.refuse(f"this has {many}, but the index has {used}", hint)
    missing = [WHOLE] * (rank - used)
    for i, part in enumerate(parts):
        if part is Ellipsis:
            return parts[:i] + missing + parts[i + 1 :]
    return parts + missing


def _plain_first(tracer: Tracer, content: Gather, parts: list[Any], record: Record) -> tuple[Gather, list[Any]]:
    """Do what is neither a number nor a traced value to the captured tensor; the rest of the index."""
    plain = [part for part in parts if not _is_position(part) and not is_whole(part)]
    if not plain:
        return content, parts
    if any(isinstance(bound, TracedTensor) for part in plain if isinstance(part, slice) for bound in _bounds(part)):
        tracer.refuse("a slice between traced bounds has another size for every pair", "sum over a mask, or index")
    tensors = [part for part in plain if isinstance(part, torch.Tensor | list)]
    if tensors and (len(tensors) > 1 or any(_is_position(part) for part in parts)):
        hint = "index one after the other: `t[:, order][h]` instead of `t[h, order]`"
        tracer.refuse("index tensors and traced ints cannot be mixed in one index", hint)
    ours = iter(parts)
    outer: list[Any] = []
    fixed = list(content.index)
    for dim in range(len(fixed)):
        if fixed[dim] is not None:
            outer.append(WHOLE)
            continue
        part = next(ours)
        while part is None:
            outer.append(None)
            part = next(ours)
        outer.append(WHOLE if _is_position(part) else part)
    outer += list(ours)  # new dimensions at the end
    made = record(content.source.tensor, tuple(outer))
    rest = [each for part in parts for each in ([part] if _is_position(part) else [WHOLE] * _width(part))]
    source, _ = tracer.source_of(made)
    return Gather(source, _spread(fixed, outer, made.dim())), rest


def _spread(fixed: list[Expr | None], outer: list[Any], rank: int) -> tuple[Expr | None, ...]:
    """The positions that were fixed, among the dimensions after the plain part of the index."""
    found: list[Expr | None] = []
    remaining = iter(fixed)
    for part in outer:
        if part is None:
            found.append(None)
        else:
            known = next(remaining)
            found += [None] * _width(part) if known is None else [known]
    return tuple(found + [None] * (rank - len(found)))


def _bounds(part: slice) -> tuple[Any, ...]:
    return part.start, part.stop, part.step


def _width(part: Any) -> int:
    """How many dimensions a part of an index leaves."""
    if isinstance(part, list):
        part = torch.tensor(part, device="cpu")
    return part.dim() if isinstance(part, torch.Tensor) else 1


def is_whole(part: Any) -> bool:
    """Whether a part of an index takes a whole dimension."""
    # Not `part == WHOLE`: comparing a number would read it.
    return isinstance(part, slice) and part.start is None and part.stop is None and part.step is None


def _is_position(part: Any) -> bool:
    """Whether a part of an index selects positions by numbers: traced, or plain."""
    if isinstance(part, torch.Tensor) and not isinstance(part, TracedTensor):
        return part.dim() == 0 and part.dtype is not torch.bool
    return (
        type(part) is TracedInt or isinstance(part, TracedTensor) or (isinstance(part, int) and type(part) is not bool)
    )


def _position(tracer: Tracer, part: Any) -> Grid | None:
    """A part of an index as expressions; None for a whole dimension."""
    if is_whole(part):
        return None
    if type(part) is TracedInt:
        return Grid((), (part.expr,))
    if isinstance(part, TracedTensor):
        content = part.content
        grid = content if isinstance(content, Grid) else tracer.elements(content)
    elif isinstance(part, torch.Tensor):
        grid = tracer.elements(tracer.source_of(part)[1])
    else:
        grid = Grid((), (const(int(part)),))
    kinds = {each.scalar for each in grid.items}
    if Scalar.FLOAT in kinds:
        tracer.refuse("a captured tensor is indexed with ints, but this is a float", "convert it: `x.long()`")
    if Scalar.BOOL in kinds:
        tracer.refuse("a bool as an index selects by a mask, not by a position", "convert it: `x.long()`")
    return grid


def _of_grid(tracer: Tracer, grid: Grid, parts: list[Any]) -> Grid:
    """Elements of an array of expressions: only places that are known while tracing."""
    layout = torch.arange(len(grid.items), device="cpu").reshape(grid.shape)
    plain = []
    for part in parts:
        position = None if is_whole(part) or not _is_position(part) else _position(tracer, part)
        if position is not None and any(each.op.value != "const" for each in position.items):
            hint = "index the captured tensor with all indices at once: `t[h, i]`"
            tracer.refuse("a computed array cannot be indexed with a traced value", hint)
        plain.append(part if position is None else int(position.items[0].value))  # type: ignore[arg-type]
    chosen = layout[tuple(plain)]
    return Grid(tuple(chosen.shape), tuple(grid.items[i] for i in chosen.flatten().tolist()))


def _of_arrays(tracer: Tracer, content: Gather, chosen: list[Grid | None], arrays: list[Grid]) -> Grid:
    """Elements at an array of positions, as in `t[h, order[q_idx]]`: as many loads as the array has elements."""
    at = [i for i, each in enumerate(chosen) if each is not None]
    if at != list(range(at[0], at[0] + len(at))):
        tracer.refuse("the dimensions indexed by arrays have to lie side by side", "index in two steps")
    shape = common_shape(*(each.shape for each in arrays))
    wide = [broadcast(each, shape) for each in chosen if each is not None]
    tails = [
        [const(i) for i in range(tracer.guard_size(content.source, content.free[d]))]
        for d in range(len(chosen))
        if chosen[d] is None
    ]
    before = at[0]
    sizes = [len(each) for each in tails]
    found = []
    for head in itertools.product(*tails[:before]):
        for flat in range(len(wide[0].items)):
            for tail in itertools.product(*tails[before:]):
                picked = iter((*head, *(each.items[flat] for each in wide), *tail))
                found.append(tuple(each if each is not None else next(picked) for each in content.index))
                if len(found) > MAX_ELEMENTS:
                    tracer.refuse(
                        f"this needs more than {MAX_ELEMENTS} elements of `{content.source.name}` for every pair",
                        limit=True,
                    )
    items = tuple(tracer.load(content.source, each) for each in found)
    return Grid((*sizes[:before], *shape, *sizes[before:]), items)


def common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that all broadcast to. torch's own function would import SymPy, which takes half a second."""
    if len(set(shapes)) == 1:
        return shapes[0]
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = [{size for size in column if size != 1} for column in columns]
    if any(len(each) > 1 for each in sizes):
        raise RuntimeError(f"the shapes {', '.join(str(list(shape)) for shape in shapes)} do not broadcast")
    return tuple(each.pop() if each else 1 for each in sizes)


def broadcast(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """An array repeated to a shape that it broadcasts to."""
    if grid.shape == shape:
        return grid
    layout = torch.arange(len(grid.items), device="cpu").reshape(grid.shape).expand(shape)
    return Grid(shape, tuple(grid.items[i] for i in layout.flatten().tolist()))

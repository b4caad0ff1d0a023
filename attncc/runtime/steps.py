"""What generated torch kernels stand on: how heads are grouped, which steps a row of tiles takes, and captured reads.

Everything here works on whole tensors and knows no variant. Shapes in comments: B batch, H query heads, G query heads
per kv head, n columns of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attncc.errors import InputError

#: Columns of a step that heads are grouped for; fewer would make the products thin.
COLUMNS = 256

Group = tuple[slice, slice, slice, slice]
Step = tuple[int, int, list[tuple[int, int]]]


def empty_like(q: Tensor, last: int) -> Tensor:
    """An empty tensor of q's shape but for its last size, with q's order of strides, as torch's own attention."""
    order = sorted(range(3), key=q.stride, reverse=True)
    return torch.empty_permuted((*q.shape[:3], last), (*order, 3), dtype=q.dtype, device=q.device)


def head_groups(q: Tensor, k: Tensor, rows: int, scores: int, *, by_batch: bool, by_head: bool) -> Iterator[Group]:
    """Heads that run as one matrix product, as slices of (batch, heads, kv batch, kv heads).

    A group holds one sequence, or whole sequences. `by_batch` and `by_head` say that tiles differ between sequences and
    between heads; `rows` is the height of a tile and `scores` how many scores a step may hold.
    """
    (batch, heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = q.shape, k.shape
    shared = heads // kv_heads
    limit = max(1, scores // max(1, min(rows, q_len) * min(COLUMNS, kv_len)))
    if by_head:
        head_step = 1
    else:
        head_step = min(heads, max(shared, limit // shared * shared))
    whole = head_step == heads and not by_batch and kv_batch == batch
    batch_step = min(max(1, limit // heads), batch) if whole else 1
    for b0 in range(0, batch, max(1, batch_step)):
        b = slice(b0, min(b0 + batch_step, batch))
        kv_b = b if kv_batch == batch else slice(0, 1)
        for h0 in range(0, heads, head_step):
            h = slice(h0, min(h0 + head_step, heads))
            yield b, h, kv_b, slice(h.start // shared, (h.stop - 1) // shared + 1)


def steps(visit: Tensor | bool, full: Tensor | bool, tile: int, columns: int, length: int) -> Iterator[Step]:
    """The visited columns of one row of tiles: (start, end, ranges that the mask must cut), at most `columns` a step.

    `visit` and `full` classify each tile of width `tile`; neighbours that are visited run as one step.
    """
    tiles = -(-length // tile)
    visit, full = (torch.as_tensor(t).flatten().cpu().expand(tiles) for t in (visit, full))
    classes, counts = torch.unique_consecutive(visit.to(torch.int8) + (visit & full), return_counts=True)
    width = max(1, columns // tile)
    step: list[tuple[int, int, bool]] = []
    start = 0
    for kind, count in zip(classes.tolist(), counts.tolist(), strict=True):
        end = start + count
        while kind and start < end:
            taken = min(end, start + width - (start - step[0][0] if step else 0))
            step.append((start, taken, kind == 1))
            start = taken
            if start - step[0][0] == width:
                yield _step(step, tile, length)
                step = []
        if not kind and step:
            yield _step(step, tile, length)
            step = []
        start = end
    if step:
        yield _step(step, tile, length)


def _step(parts: Sequence[tuple[int, int, bool]], tile: int, length: int) -> Step:
    partial = [(start * tile, min(end * tile, length)) for start, end, cut in parts if cut]
    return parts[0][0] * tile, min(parts[-1][1] * tile, length), partial


def block_bounds(values: Tensor, tile: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum, maximum and whether any is NaN, by blocks of `tile` positions; NaN takes no part in the first two."""
    values = values.flatten().expand(length)
    lost = values.isnan()
    ends = _ends(values.dtype)
    low = _blocks(values.masked_fill(lost, ends[1]), tile, ends[1]).amin(-1)
    high = _blocks(values.masked_fill(lost, ends[0]), tile, ends[0]).amax(-1)
    return low, high, _blocks(lost, tile, False).any(-1)


def _ends(dtype: torch.dtype) -> tuple[float, float] | tuple[bool, bool]:
    if dtype == torch.bool:
        return False, True
    if dtype.is_floating_point:
        return -torch.inf, torch.inf
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _blocks(values: Tensor, tile: int, rest: float | bool) -> Tensor:
    """[N] as [blocks, tile], filled up with `rest`."""
    count = -(-values.numel() // tile)
    padded = values.new_full((count * tile,), rest)
    padded[: values.numel()] = values
    return padded.view(count, tile)


def hold(index: Tensor, table: Tensor, dim: int) -> Tensor:
    """The index where it lies in [-n, n - 1], the nearest end elsewhere."""
    size = table.shape[dim]
    return index.clamp(-size, size - 1)


def gather(table: Tensor, *index: Tensor) -> Tensor:
    """`table[index]` for indices that broadcast to a whole tile; several times as fast as torch's own on the CPU."""
    if not table.is_contiguous() or table.is_cuda:
        return table[index]
    place = _places(index, table.shape)
    return table.view(-1).index_select(0, place.reshape(-1)).view(place.shape)


def _places(index: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Where elements lie in the memory of a contiguous tensor; indices in [-n, n - 1], negative ones from the end."""
    place = torch.zeros((), dtype=torch.int64)
    for each, size in zip(index, shape, strict=True):
        place = place * size + torch.where(each < 0, each + size, each)
    return place


def refuse_outside(wrong: Tensor, reads: Sequence[tuple[str, Tensor, int, Tensor]]) -> None:
    """Raise InputError for the first read (name, index, dimension, table) that leaves its table at a wrong pair."""
    if not wrong.any():
        return
    for name, index, dim, table in reads:
        size = table.shape[dim]
        seen = index.expand(wrong.shape)[wrong]
        seen = seen[(seen < -size) | (seen >= size)]
        if seen.numel():
            low, high = int(seen.min()), int(seen.max())
            place = str(low) if low == high else f"{low} to {high}"
            raise InputError(
                f"`{name}` has size {size} in dimension {dim}, but is read at {place}",
                hint="hide these pairs in `mask`, or clamp the index",
            )
    raise InputError("an int is divided by 0 at a visible pair", hint="hide this pair in `mask`")


def add_at(total: Tensor, index: Sequence[Tensor], values: Tensor) -> None:
    """Add each value at its place of `total`, always in the same order. Indices broadcast to the shape of values."""
    if not index:
        total += values.sum()
        return
    inside = [hold(each, total, dim) for dim, each in enumerate(index)]  # what is outside adds 0, or NaN to a NaN row
    flat = _places(inside, total.shape).to(values.device).expand(values.shape).reshape(-1)
    if values.is_cuda:  # index_add_ uses atomics there; this sorts
        total.view(-1).index_put_((flat,), values.reshape(-1), accumulate=True)
    else:
        total.view(-1).index_add_(0, flat, values.reshape(-1))

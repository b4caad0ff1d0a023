"""Masks in the formats of others: key intervals, FlashMask's columns, block-sparse rows, torch's BlockMask.

Each export says exactly what the mask says, or raises UnsupportedError. None of them looks at a pair outside the blocks
that the analysis leaves open. `BlockMask.to_torch` and `BlockMask.from_torch` exchange block masks with torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from attncc.errors import InputError, UnsupportedError
from attncc.flex.attention import mask_of
from attncc.flex.classes import Seen, classify_blocks, pairs_of, seen_by
from attncc.ir import KV_IDX, KV_LEN, Q_IDX, Q_LEN, substitute
from attncc.runtime.tiles import FULL, PARTIAL, SKIP, Sizes

#: The blocks in which exports that have none of their own look at a mask.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Intervals:
    """For each query the ranges start <= key < stop that it sees, ascending; int32 [B, H, Lq, n], counts [B, H, Lq].

    Entries beyond the count of a query are 0, 0.
    """

    counts: Tensor
    starts: Tensor
    stops: Tensor


@dataclass(frozen=True, slots=True)
class BlockRows:
    """Compressed rows of blocks: the blocks of row r are `indices[indptr[r] : indptr[r + 1]]`, int32.

    `mask` says which pairs of each block are visible, bool [blocks, block_q, block_kv]; None where all are.
    """

    indptr: Tensor
    indices: Tensor
    block: tuple[int, int]
    mask: Tensor | None


def key_intervals(block_mask: torch_flex.BlockMask, max_intervals: int | None = None) -> Intervals:
    """Which keys each query sees, as ranges. UnsupportedError where a query sees more than `max_intervals` ranges."""
    return _intervals(_seen(block_mask), max_intervals, "query", "keys")


def flashmask_columns(block_mask: torch_flex.BlockMask, causal: bool) -> Tensor:
    """FlashMask's `startend_row_indices`: which queries do not see a key; int32 [B, H, Lkv, 1, 2 or 4].

    With `causal`, keys after the query are hidden by the kernel, and a column has one hidden range of later queries:
    its start, and its stop where some range ends before the last query. Without, it has two hidden ranges: a later one,
    that reaches to the last query unless four numbers are needed, and one before it, that begins at the first.
    UnsupportedError where a key is hidden from more ranges of queries than that.
    """
    seen = _seen(block_mask)
    turned = _turned(seen)
    visible = _intervals(turned, None, "key", "queries")
    rows = seen.sizes.q_len
    if causal:
        return _causal_columns(visible, rows, seen.sizes.kv_len)
    first, second = _hidden(visible, rows, 2)
    return _two_ranges(first, second, rows)


def block_rows(block_mask: torch_flex.BlockMask, batch: int = 0, head: int = 0) -> BlockRows:
    """The blocks of one sequence and head as compressed rows, with the block size of the block mask.

    UnsupportedError where a block reaches beyond a sequence, which this format cannot say.
    """
    seen = _seen(block_mask)
    sizes, block = seen.sizes, (int(block_mask.BLOCK_SIZE[0]), int(block_mask.BLOCK_SIZE[1]))
    for name, length, size in (("queries", sizes.q_len, block[0]), ("keys", sizes.kv_len, block[1])):
        if length % size:
            problem = f"{length} {name} are no multiple of {size}, and block-sparse rows hold whole blocks"
            raise UnsupportedError(problem, hint="choose a BLOCK_SIZE that divides the lengths")
    classes = classify_blocks(seen, block)[batch, head]
    places = (classes != SKIP).nonzero()
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (classes != SKIP).sum(1).cumsum(0)]).to(torch.int32)
    indices = places[:, 1].to(torch.int32)
    if (classes != PARTIAL).all():
        return BlockRows(indptr, indices, block, None)
    group = torch.tensor([[batch, head]]).expand(len(places), 2)
    mask, _ = pairs_of(seen, torch.cat([group, places], 1), block)
    return BlockRows(indptr, indices, block, mask)


def _seen(block_mask: torch_flex.BlockMask) -> Seen:
    """What a block mask shows; its batches and heads are those that it was made for."""
    shape = block_mask.shape
    if len(shape) != 4:
        raise InputError(f"the block mask must be [B, H, Lq, Lkv], but is {list(shape)}")
    sizes = Sizes(*(int(size) for size in shape))
    return seen_by(mask_of(block_mask, *(int(size) for size in shape)), sizes)


def _turned(seen: Seen) -> Seen:
    """The mask with queries and keys in each other's place."""
    sizes = Sizes(seen.sizes.batch, seen.sizes.heads, seen.sizes.kv_len, seen.sizes.q_len)
    mask = substitute(seen.mask, {Q_IDX: KV_IDX, KV_IDX: Q_IDX, Q_LEN: KV_LEN, KV_LEN: Q_LEN})
    return Seen(mask, sizes, seen.captures, seen.parameters)


def _intervals(seen: Seen, limit: int | None, row: str, columns: str) -> Intervals:
    """The visible ranges of each row."""
    sizes = seen.sizes
    shape = (sizes.batch, sizes.heads, sizes.q_len)
    found = [edges for rows in _rows(seen) for edges in rows]  # one entry for each row, in order
    counts = torch.tensor([len(starts) for starts, _ in found], dtype=torch.int32).view(shape)
    most = int(counts.max())
    if limit is not None and most > limit:
        raise UnsupportedError(f"a {row} sees {most} ranges of {columns}, but the format holds {limit}")
    starts, stops = torch.zeros(2, len(found), most, dtype=torch.int32)
    for i, edges in enumerate(found):
        for table, positions in zip((starts, stops), edges, strict=True):
            table[i, : len(positions)] = positions
    return Intervals(counts, starts.view(*shape, most), stops.view(*shape, most))


def _rows(seen: Seen) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The edges of the visible ranges of each row, a row of blocks at a time."""
    classes = classify_blocks(seen, (BLOCK, BLOCK), exact=False)
    batches, heads, rows, _ = classes.shape
    for b, h, r in torch.cartesian_prod(*(torch.arange(n) for n in (batches, heads, rows))).tolist():
        height = min(BLOCK, seen.sizes.q_len - r * BLOCK)
        yield _edges(seen, classes[b, h, r], (b, h, r), height)


def _edges(seen: Seen, classes: Tensor, place: tuple[int, int, int], height: int) -> list[tuple[Tensor, Tensor]]:
    """The ranges of one row of blocks: only blocks that may be visible are written out."""
    visited = (classes != SKIP).nonzero()[:, 0]
    visible = torch.ones(len(visited), BLOCK, BLOCK, dtype=torch.bool)
    reach = visited * BLOCK + BLOCK > seen.sizes.kv_len
    looked = (classes[visited] != FULL) | reach
    if looked.any():
        at = visited[looked]
        where = torch.cat([torch.tensor([place]).expand(len(at), 3), at[:, None]], 1)
        visible[looked] = pairs_of(seen, where, (BLOCK, BLOCK))[0].cpu()
    # an empty column after each block that has a gap behind it, and one before the first
    gaps = torch.ones(len(visited), dtype=torch.bool)
    gaps[:-1] = visited[1:] != visited[:-1] + 1
    positions = [torch.tensor([-1])]
    parts = [torch.zeros(height, 1, dtype=torch.bool)]
    for block, tile, gap in zip(visited.tolist(), visible[:, :height], gaps.tolist(), strict=True):
        width = BLOCK + gap
        positions.append(torch.arange(block * BLOCK, block * BLOCK + width))
        parts.append(torch.nn.functional.pad(tile, (0, int(gap))))
    row, places = torch.cat(parts, 1), torch.cat(positions)
    change = row[:, 1:] != row[:, :-1]
    return [(edges[0::2], edges[1::2]) for edges in (places[1:][each] for each in change)]


def _hidden(visible: Intervals, rows: int, limit: int) -> tuple[Tensor, ...]:
    """The hidden ranges of each row of `rows` positions, as `limit` pairs [B, H, L, 2]; unused ones are empty."""
    count = visible.counts.shape[-1]
    flat = [t.flatten(0, 2) for t in (visible.counts, visible.starts, visible.stops)]
    found = torch.full((len(flat[0]), limit, 2), rows, dtype=torch.int32)
    for i, (n, starts, stops) in enumerate(zip(*flat, strict=True)):
        edges = [0, *torch.stack([starts[:n], stops[:n]], 1).flatten().tolist(), rows]
        ranges = [(a, b) for a, b in zip(edges[0::2], edges[1::2], strict=True) if a < b]
        if len(ranges) > limit:
            key = i % count
            raise UnsupportedError(
                f"key {key} is hidden from {len(ranges)} ranges of queries, but the format holds {limit}"
            )
        for j, each in enumerate(ranges):
            found[i, j] = torch.tensor(each)
    return tuple(found[:, j].view(*visible.counts.shape, 2) for j in range(limit))


def _causal_columns(visible: Intervals, rows: int, kv_len: int) -> Tensor:
    """One hidden range of the queries from each key's own position on."""
    own = torch.arange(kv_len, dtype=torch.int32)
    before = (visible.starts < own[:, None]) & (visible.starts < visible.stops)
    if before.any():
        raise UnsupportedError("a query sees a later key, which a causal mask cannot say", hint="pass causal=False")
    first, second = _hidden(visible, rows, 2)
    # what is hidden before the key's own position is hidden by the kernel
    starts = torch.stack([first[..., 0], second[..., 0]], -1).maximum(own[:, None])
    stops = torch.stack([first[..., 1], second[..., 1]], -1)
    real = starts < stops
    if real.all(-1).any():
        raise UnsupportedError("a key is hidden from two ranges of later queries, but the format holds one")
    last = torch.full_like(starts[..., 0], rows)
    start = torch.where(real[..., 0], starts[..., 0], torch.where(real[..., 1], starts[..., 1], last))
    stop = torch.where(real[..., 0], stops[..., 0], torch.where(real[..., 1], stops[..., 1], last))
    return torch.stack([start, stop], -1) if (stop < rows).any() else start[..., None]


def _two_ranges(first: Tensor, second: Tensor, rows: int) -> Tensor:
    """The later hidden range, then the earlier one; two numbers where they reach to the last and from the first."""
    alone = second[..., 0] == second[..., 1]
    reaches = alone & (first[..., 1] == rows)
    none = torch.zeros_like(first)
    later = torch.where(
        (alone & ~reaches)[..., None], torch.full_like(first, rows), torch.where(reaches[..., None], first, second)
    )
    earlier = torch.where(reaches[..., None], none, first)
    if (later[..., 1] == rows).all() and (earlier[..., 0] == 0).all():
        return torch.stack([later[..., 0], earlier[..., 1]], -1)
    return torch.cat([later, earlier], -1)

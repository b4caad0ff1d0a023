"""What generated torch kernels stand on: how heads are grouped, which steps a row of tiles takes, and captured reads.

Everything here works on whole tensors and knows no variant. Shapes in comments: B batch, H query heads, G query heads
per kv head, n columns of a step.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from attncc.errors import InputError

#: Columns of a step that heads are grouped for; fewer would make the products thin.
COLUMNS = 256

#: Scores below which starting a thread costs more than it saves.
WORTH_A_THREAD = 1 << 21
#: Elements of gradients of captures that each thread may hold a copy of.
MOST_COPIED = 1 << 22

Group = tuple[slice, slice, slice, slice]
Totals = list[Tensor] | None
_LOCK = threading.Lock()
Step = tuple[int, int, list[tuple[int, int]]]


def empty_like(q: Tensor, last: int) -> Tensor:
    """An empty tensor of q's shape but for its last size, with q's order of strides, as torch's own attention."""
    order = sorted(range(3), key=q.stride, reverse=True)
    return torch.empty_permuted((*q.shape[:3], last), (*order, 3), dtype=q.dtype, device=q.device)


def head_groups(
    q: Tensor, k: Tensor, rows: int, scores: int, *, owners: bool, by_batch: bool, by_head: bool
) -> list[list[Group]]:
    """Heads that run as one matrix product, as slices of (batch, heads, kv batch, kv heads), in shares for threads.

    A group holds one sequence, or whole sequences. `by_batch` and `by_head` say that tiles differ between sequences and
    between heads; `rows` is the height of a tile and `scores` how many scores a step may hold. With `owners` no two
    shares have the same keys.
    """
    (batch, heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = q.shape, k.shape
    shared = heads // kv_heads
    threads = torch.get_num_threads() if q.device.type == "cpu" else 1
    if batch * heads * q_len * kv_len < WORTH_A_THREAD or (owners and kv_batch != batch):
        threads = 1
    tile = max(1, min(rows, q_len) * min(COLUMNS, kv_len))
    limit = max(1, scores // tile)
    if threads > 1:
        limit = max(1, min(scores // (tile * threads), batch * heads // threads))
    head_step = 1 if by_head else min(heads, max(shared, limit // shared * shared))
    whole = head_step == heads and not by_batch and kv_batch == batch
    batch_step = min(max(1, limit // heads), batch) if whole else 1
    groups: list[Group] = []
    for b0 in range(0, batch, max(1, batch_step)):
        b = slice(b0, min(b0 + batch_step, batch))
        kv_b = b if kv_batch == batch else slice(0, 1)
        for h0 in range(0, heads, head_step):
            h = slice(h0, min(h0 + head_step, heads))
            groups.append((b, h, kv_b, slice(h.start // shared, (h.stop - 1) // shared + 1)))
    return _shares(groups, threads, owners)


def _shares(groups: list[Group], threads: int, owners: bool) -> list[list[Group]]:
    """The groups in contiguous shares, one for each thread; with `owners` those of the same keys stay together."""
    units: list[list[Group]] = []
    for group in groups:
        if owners and units and units[-1][-1][2:] == group[2:]:
            units[-1].append(group)
        else:
            units.append([group])
    if len(units) < threads:
        return [groups]
    ends = [round(i * len(units) / threads) for i in range(threads + 1)]
    return [[group for unit in units[a:b] for group in unit] for a, b in itertools.pairwise(ends)]


def in_parallel(run: Callable[[list[Group]], Totals], shares: list[list[Group]], copied: int = 0) -> list[Tensor]:
    """Run each share, on a thread of its own if there are several, and add up what they return, in order.

    Threads that each take a share wait for each other once, where operations that are split among threads wait once
    for each operation; on a busy machine that decides. `copied` elements are held by each share: many make it one.
    """
    if len(shares) == 1 or copied > MOST_COPIED:
        return run([group for share in shares for group in share]) or []
    pool = _pool(len(shares))
    parts = [future.result() or [] for future in [pool.submit(_run_alone, run, share) for share in shares]]
    return [sum(rest, first) for first, *rest in zip(*parts, strict=True)]


def _run_alone(run: Callable[[list[Group]], Totals], share: list[Group]) -> Totals:
    with torch.no_grad():
        return run(share)


@functools.cache
def _pool_of(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads in which torch does not split operations; a forked process makes its own."""
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="attncc", initializer=_stay_single)
    started = threading.Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(own)  # for threads to come, whose number the workers have just set
    return pool


def _stay_single() -> None:
    """Let torch run each operation of this thread on this thread."""
    torch.get_num_threads()  # a thread takes over the number of the process when it first asks: before it is set
    torch.set_num_threads(1)


def _pool(threads: int) -> ThreadPoolExecutor:
    with _LOCK:
        return _pool_of(os.getpid(), threads)


def steps(runs: Sequence[tuple[int, int, bool]], tile: int, columns: int, length: int) -> Iterator[Step]:
    """The visited columns of one row of tiles: (start, end, ranges that the mask must cut), at most `columns` a step.

    `runs` are tiles of width `tile`, ascending: first, end, and whether the mask must cut them. Neighbours run as one.
    """
    width = max(1, columns // tile)
    step: list[tuple[int, int, bool]] = []
    for start, end, cut in runs:
        if step and start != step[-1][1]:
            yield _step(step, tile, length)
            step = []
        while start < end:
            taken = min(end, start + width - (start - step[0][0] if step else 0))
            step.append((start, taken, cut))
            start = taken
            if start - step[0][0] == width:
                yield _step(step, tile, length)
                step = []
    if step:
        yield _step(step, tile, length)


def _step(parts: Sequence[tuple[int, int, bool]], tile: int, length: int) -> Step:
    partial = [(start * tile, min(end * tile, length)) for start, end, cut in parts if cut]
    return parts[0][0] * tile, min(parts[-1][1] * tile, length), partial


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
            message = f"`{name}` has size {size} in dimension {dim}, but is read at {place}"
            error = InputError(message, hint="hide these pairs in `mask`, or clamp the index")
            error.capture = name
            raise error
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

"""The parts of generated kernels: groups of heads, steps of a row, bounds of blocks, reads and sums."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from attncc.errors import InputError
from attncc.runtime.steps import (
    add_at,
    alone,
    empty_like,
    gather,
    head_groups,
    hold,
    in_parallel,
    refuse_outside,
    steps,
)
from tests.share import share


def tensors(batch: int, heads: int, length: int, kv_heads: int, kv_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(batch, heads, length, 4), torch.empty(kv_batch, kv_heads, length, 4)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "kv_batch"),
    [(1, 8, 8, 1), (3, 8, 2, 3), (3, 8, 2, 1), (2, 64, 1, 2), (5, 3, 3, 5), (1, 96, 32, 1)],
)
def test_groups_hold_each_head_once_with_its_keys(
    batch, heads, kv_heads, kv_batch, by_batch, by_head, threads, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q, k = tensors(batch, heads, 300, kv_heads, kv_batch)
    shares = head_groups(q, k, 256, 1 << 20, owners=True, by_batch=by_batch, by_head=by_head)
    assert len(shares) <= threads
    seen = torch.zeros(batch, heads, dtype=torch.int64)
    for b, h, kv_b, kv_h in (group for groups in shares for group in groups):
        seen[b, h] += 1
        queries, keys = q[b, h], k[kv_b, kv_h]
        shared = queries.shape[1] // keys.shape[1]
        assert queries.shape[0] == keys.shape[0]
        assert shared * keys.shape[1] == queries.shape[1]
        assert [head // (heads // kv_heads) for head in range(heads)[h]] == [
            kv for kv in range(kv_heads)[kv_h] for _ in range(shared)
        ]
        assert not by_batch or queries.shape[0] == 1
        assert not by_head or queries.shape[1] == 1
        assert keys.shape[0] == 1 or keys.shape[1] == kv_heads  # so that both axes are one
    assert (seen == 1).all()
    owned = [
        {(b, h) for *_, kv_b, kv_h in groups for b in range(9)[kv_b] for h in range(99)[kv_h]} for groups in shares
    ]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(owned, 2))


def test_shares_run_on_threads_that_do_not_split_operations():
    shares = [[(slice(i, i + 1),) * 4] for i in range(3)]
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def run(groups):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return [torch.tensor([float(groups[0][0].start)])]

    try:
        assert in_parallel(run, shares)[0].item() == 3.0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(False, 1)] * 3
    assert in_parallel(lambda groups: [torch.tensor(float(len(groups)))], shares, copied=1 << 30)[0].item() == 3.0


def test_what_runs_alone_runs_where_torch_does_not_split_operations():
    before, main = torch.get_num_threads(), threading.current_thread()
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            place, own, grad = alone(
                lambda: (threading.current_thread(), torch.get_num_threads(), torch.is_grad_enabled())
            )
            assert ((place is main), own, grad) == (threads == 1, 1, False)
            assert torch.get_num_threads() == threads
            with pytest.raises(InputError, match="no"):
                alone(refuse)
    finally:
        torch.set_num_threads(before)


def refuse() -> None:
    raise InputError("no")


def test_an_error_in_a_share_reaches_the_caller():
    def run(groups):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        in_parallel(run, [[], []])


def test_steps_cover_the_visited_tiles_in_order():
    numbers = torch.Generator().manual_seed(0)
    for _ in range(share(500)):
        tiles, tile = (int(torch.randint(1, n, (), generator=numbers)) for n in (20, 9))
        length = tiles * tile - int(torch.randint(0, tile, (), generator=numbers))
        columns = int(torch.randint(1, 6 * tile, (), generator=numbers))
        visit = torch.rand(tiles, generator=numbers) < 0.7
        full = visit & (torch.rand(tiles, generator=numbers) < 0.5)
        check_steps(visit, full, tile, columns, length)


def check_steps(visit: torch.Tensor, full: torch.Tensor, tile: int, columns: int, length: int) -> None:
    positions = torch.arange(length) // tile
    seen, cut = torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
    end = 0
    kinds = itertools.groupby(enumerate(zip(visit.tolist(), full.tolist(), strict=True)), lambda each: each[1])
    runs = [
        (places[0][0], places[-1][0] + 1, not kind[1]) for kind, each in kinds if kind[0] and (places := list(each))
    ]
    for start, stop, partial in steps(runs, tile, columns, length):
        assert end <= start < stop <= length
        assert stop - start <= max(columns, tile)
        end = stop
        seen[start:stop] += 1
        for low, high in partial:
            assert start <= low < high <= stop
            cut[low:high] = True
    assert torch.equal(seen == 1, visit[positions])
    assert torch.equal(cut, (visit & ~full)[positions])


def test_gather_reads_as_indexing_does():
    table, h = torch.randn(4, 9), torch.arange(4)[:, None, None]
    place = torch.arange(5)[:, None] - torch.arange(6)
    for each in (table, torch.randn(9, 4).T):
        assert torch.equal(gather(each, h, place), each[h, place])
    assert hold(torch.tensor([-9, -2, 5]), table, 0).tolist() == [-4, -2, 3]


def test_sums_at_indices_agree_with_indexing_and_repeat_bit_by_bit():
    values = torch.randn(1, 4, 50, 60)
    index = (torch.arange(4)[:, None, None], torch.arange(50)[:, None] - torch.arange(60))
    totals = [torch.zeros(4, 64) for _ in range(3)]
    for total in totals[:2]:
        add_at(total, index, values)
    totals[2].index_put_(tuple(i.expand(4, 50, 60) for i in index), values[0], accumulate=True)
    assert torch.equal(totals[0], totals[1])
    torch.testing.assert_close(totals[0], totals[2])


def test_an_error_names_the_tensor_the_size_and_the_places():
    table, wrong = torch.zeros(3, 5), torch.tensor([[True, False, True]])
    refuse_outside(torch.zeros(1, 3, dtype=torch.bool), [])
    with pytest.raises(InputError, match="`bias` has size 5 in dimension 1, but is read at 7 to 9"):
        refuse_outside(wrong, [("bias", torch.tensor([0]), 0, table), ("bias", torch.tensor([9, 0, 7]), 1, table)])
    with pytest.raises(InputError, match="an int is divided by 0 at a visible pair"):
        refuse_outside(wrong, [])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (2, 0, 1, 3)])
def test_outputs_lie_in_memory_as_q_does(order):
    q = torch.empty(2, 3, 5, 4).permute(order).contiguous().permute([order.index(i) for i in range(4)])
    torch_own = torch.empty_like(q)
    assert empty_like(q, 4).stride() == torch_own.stride()
    assert empty_like(q, 7).shape == (2, 3, 5, 7)

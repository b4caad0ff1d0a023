"""Tables of tiles: the same whichever way they are found, exact where tiles are looked into, small in the making."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attncc.analysis.bands import summarize_mask
from attncc.frontend import parse
from attncc.reference import evaluate_dense
from attncc.runtime import tables, tiles
from attncc.runtime.tables import FULL, PARTIAL, SKIP, extremes
from attncc.runtime.tiles import Sizes
from attncc.runtime.visited import MEMORY, AllTiles
from tests.runtime.test_tiles import brute_force
from tests.share import share
from tests.strategies import random_problem

DOCUMENTS = "ids[b, q_idx] == ids[b, kv_idx] and q_idx >= kv_idx"
LONG = 131072


@pytest.fixture(autouse=True)
def forgotten():
    MEMORY.clear()


def mask_of(mask: str, scalar: str = "int"):
    return parse(f"attn 1\nattention one:\n  capture ids: {scalar}[batch, kv_len]\n  mask = {mask}\n").mask


def packed(length: int, documents: int) -> torch.Tensor:
    return (torch.arange(length) * documents // length)[None]


def rows(mask, sizes: Sizes, tile: tuple[int, int], parameters, captures, b=0, h=0, refined=False):
    test = summarize_mask(mask).test
    found = tiles.tile_rows(test, sizes, *tile, parameters, captures, b, h, **({"mask": mask} if refined else {}))
    return torch.stack([row.classes for row in found])


@pytest.fixture(params=["tile by tile", "by halving", "in small pieces"])
def way(request, monkeypatch):
    """How tables are found."""
    if request.param != "tile by tile":
        monkeypatch.setattr(tables, "DIRECT", 0)
        monkeypatch.setattr(tables, "CELLS", 16 if request.param == "in small pieces" else 1 << 15)
        monkeypatch.setattr(tables, "PAIRS", 500)
    return request.param


def test_every_way_gives_tables_that_are_sound_and_refined_ones_are_exact(way):
    for seed in range(share(400)):
        problem = random_problem(seed)
        spec, sizes, named = problem.spec, problem.sizes, problem.named_parameters
        captures = dict(zip((c.name for c in spec.captures), problem.values().captures, strict=True))
        whole = Sizes(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
        b, h = sizes.batch - 1, sizes.heads - 1
        exact = brute_force(evaluate_dense(spec.mask, sizes.inputs, captures, named)[b, h], 16, 8)
        given = (spec.mask, whole, (16, 8), named, captures, b, h)
        found = rows(*given)
        assert ((found == exact) | (found == PARTIAL)).all(), f"seed {seed}"
        assert torch.equal(rows(*given, refined=True), exact.to(torch.int8)), f"seed {seed}"


@pytest.mark.parametrize("order", ["ascending", "shuffled", "descending"])
@pytest.mark.parametrize("scalar", ["int", "float"])
@pytest.mark.parametrize("mask", [DOCUMENTS, "ids[b, q_idx] == ids[b, kv_idx]", f"({DOCUMENTS}) or kv_idx < 5"])
def test_captured_values_need_not_ascend(way, mask, scalar, order):
    ids = packed(331, 9)
    ids = {"ascending": ids, "descending": ids.flip(1), "shuffled": ids[:, torch.randperm(331)]}[order]
    if scalar == "float":
        ids = ids.float()
        ids[0, 100:140] = torch.nan
    expr = mask_of(mask, scalar)
    sizes = {"batch": 1, "heads": 1, "q_len": 331, "kv_len": 331}
    exact = brute_force(evaluate_dense(expr, sizes, {"ids": ids}, {})[0, 0], 16, 8)
    found = rows(expr, Sizes(1, 1, 331, 331), (16, 8), {}, {"ids": ids})
    assert ((found == exact) | (found == PARTIAL)).all()
    assert order == "shuffled" or scalar == "float" or torch.equal(found, exact.to(torch.int8))
    assert torch.equal(rows(expr, Sizes(1, 1, 331, 331), (16, 8), {}, {"ids": ids}, refined=True), exact.to(torch.int8))


def test_refining_finds_what_extremes_do_not_tell():
    ids = torch.tensor([0, 2]).repeat(64)[None]
    ids[0, 64:] = 1
    expr, sizes = mask_of("ids[b, q_idx] == ids[b, kv_idx]"), Sizes(1, 1, 128, 128)
    assert rows(expr, sizes, (64, 64), {}, {"ids": ids}).tolist() == [[PARTIAL, PARTIAL], [PARTIAL, FULL]]
    assert rows(expr, sizes, (64, 64), {}, {"ids": ids}, refined=True).tolist() == [[PARTIAL, SKIP], [SKIP, FULL]]


class Judged(TorchDispatchMode):
    """Counts the elements that operations make, and the largest number of bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                self.elements += each.numel()
                self.largest = max(self.largest, each.untyped_storage().nbytes())
        return made


def made(length: int, ids: torch.Tensor) -> Judged:
    """What making a table of packed documents does; torch must be single-threaded, or another thread does it."""
    test = summarize_mask(mask_of(DOCUMENTS)).test
    with Judged() as seen:
        tiles.count_tiles(test, Sizes(1, 1, length, length), 128, 64, {}, {"ids": ids})
    return seen


def test_ascending_captures_cost_a_few_steps_for_each_tile(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    costs = {n: made(n, packed(n, 64)).elements for n in (LONG // 4, LONG)}
    assert costs[LONG] < 4.4 * costs[LONG // 4]  # linear, but for one more step of halving
    assert costs[LONG] < 30 * LONG  # tile by tile it would be more than 300
    shuffled = packed(LONG, 64)[:, torch.randperm(LONG)]
    assert made(LONG, shuffled).largest <= LONG * 8  # no piece is larger than the values themselves


def test_packed_documents_at_131072_tokens_cost_less_than_20_ms_and_8_mib():
    test = summarize_mask(mask_of(DOCUMENTS)).test
    ids, spent = packed(LONG, 64), []
    for _ in range(8):
        MEMORY.clear()
        begun = time.process_time()  # of all threads: what other processes do does not count
        count = tiles.count_tiles(test, Sizes(1, 1, LONG, LONG), 128, 64, {}, {"ids": ids})
        spent.append(time.process_time() - begun)
    assert (count.partial, count.full) == (2048, 15360)
    assert min(spent) < 0.020
    assert peak_bytes(lambda: tiles.count_tiles(test, Sizes(1, 1, LONG, LONG), 128, 64, {}, {"ids": ids})) < 8 << 20


def peak_bytes(run) -> int:
    """The most that torch's tensors take at once while something runs on this thread."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    MEMORY.clear()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
    finally:
        torch.set_num_threads(kept)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert peak > 0
    return peak


def test_blocks_are_bounded_without_their_nans():
    low, high, lost = extremes(torch.tensor([3.0, torch.nan, 1.0, 5.0, torch.nan]), 2, 5)
    assert lost is not None
    assert (low.tolist(), high.tolist()) == ([3.0, 1.0, torch.inf], [3.0, 5.0, -torch.inf])
    assert lost.tolist() == [True, False, True]
    low, high, lost = extremes(torch.tensor([True, False, True]), 2, 3)
    assert (low.tolist(), high.tolist(), lost) == ([False, True], [True, True], None)
    assert [each.tolist() for each in extremes(torch.tensor(7), 2, 3)[:2]] == [[7, 7], [7, 7]]


def test_a_mask_that_hides_nothing_has_full_rows():
    assert list(AllTiles((1, 1, 5, 9), 4, 4).rows()) == [(0, [(0, 3, False)]), (4, [(0, 3, False)])]

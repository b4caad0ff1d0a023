"""Counted tiles are those that brute force finds: SKIP and FULL are true, and closed forms are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attncc import pipeline
from attncc.analysis import tile_test
from attncc.frontend import parse
from attncc.reference import evaluate_dense, reference
from attncc.runtime.op import attend
from attncc.runtime.tables import Runs
from attncc.runtime.tiles import FULL, PARTIAL, SKIP, Sizes, count_tiles, tile_rows
from tests.share import share
from tests.strategies import random_problem

SIZES = Sizes(2, 3, 257, 257)
MASKS = {
    "causal": "q_idx >= kv_idx",
    "window": "0 <= q_idx - kv_idx and q_idx - kv_idx < width",
    "per_head": "q_idx - kv_idx < 40 * h",
    "documents": "ids[b, q_idx] == ids[b, kv_idx] and q_idx >= kv_idx",
    "padding": "kv_idx < lengths[b]",
    "all": "true",
}


def spec_of(mask: str):
    captures = "  capture ids: int[batch, kv_len]\n  capture lengths: int[batch]\n"
    used = "".join(f"{line}\n" for line in captures.splitlines() if line.split()[1].rstrip(":") in mask)
    return parse(f"attn 1\nattention one(width: int = 70):\n{used}  mask = {mask}\n")


def captures_of(spec) -> dict[str, Tensor]:
    ids = torch.searchsorted(torch.tensor([0, 60, 130, 200]), torch.arange(257), right=True)
    known = {"ids": torch.stack([ids, ids // 2]), "lengths": torch.tensor([100, 257])}
    return {capture.name: known[capture.name] for capture in spec.captures}


def brute_force(mask: Tensor, tile_q: int, tile_kv: int) -> Tensor:
    """The classes of the tiles of a visible [Lq, Lkv]."""
    return torch.tensor(
        [
            [SKIP if not part.any() else FULL if part.all() else PARTIAL for part in row.split(tile_kv, 1)]
            for row in mask.split(tile_q, 0)
        ]
    )


@pytest.mark.parametrize(("tile_q", "tile_kv"), [(64, 32), (128, 64), (50, 33)])
@pytest.mark.parametrize("name", MASKS)
def test_rows_and_counts_are_those_of_brute_force(name, tile_q, tile_kv):
    spec = spec_of(MASKS[name])
    test, captures = tile_test(spec.mask), captures_of(spec)
    sizes = {"batch": 2, "heads": 3, "q_len": 257, "kv_len": 257}
    visible = evaluate_dense(spec.mask, sizes, captures, {"width": 70})
    total = torch.zeros(3, dtype=torch.int64)
    for b in range(2 if "[b" in MASKS[name] else 1):
        for h in range(3 if "* h" in MASKS[name] else 1):
            rows = list(tile_rows(test, SIZES, tile_q, tile_kv, {"width": 70}, captures, b, h))
            assert [(row.q0, row.q1) for row in rows] == [(q, min(q + tile_q, 257)) for q in range(0, 257, tile_q)]
            found, wanted = torch.stack([row.classes for row in rows]), brute_force(visible[b, h], tile_q, tile_kv)
            assert torch.equal(found, wanted.to(torch.int8))
            total += torch.bincount(wanted.flatten(), minlength=3)
    count = count_tiles(test, SIZES, tile_q, tile_kv, {"width": 70}, captures)
    assert [count.skipped, count.partial, count.full] == total.tolist()
    assert count.visited == count.partial + count.full
    assert count.share == count.visited / count.total


def test_random_masks_never_skip_a_visible_pair_nor_call_a_hidden_one_full():
    for seed in range(share(2000)):
        problem = random_problem(seed)
        sizes, captures = (
            problem.sizes,
            dict(zip((c.name for c in problem.spec.captures), problem.values().captures, strict=True)),
        )
        visible = evaluate_dense(problem.spec.mask, sizes.inputs, captures, problem.named_parameters)
        whole = Sizes(sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
        test, b, h = tile_test(problem.spec.mask), sizes.batch - 1, sizes.heads - 1
        rows = tile_rows(test, whole, 16, 8, problem.named_parameters, captures, b, h)
        found = torch.stack([row.classes for row in rows])
        exact = brute_force(visible[b, h], 16, 8)
        assert ((found == exact) | (found == PARTIAL)).all(), f"seed {seed}"


@pytest.mark.parametrize(
    "mask",
    [
        "q_idx - kv_idx >= 3 and q_idx - kv_idx <= 5 and q_idx + kv_idx >= 100 and q_idx + kv_idx <= 220",
        "3 * q_idx - 2 * kv_idx >= 5 and 2 * kv_idx - 3 * q_idx >= -6",
        "q_idx == kv_idx + 5 and 2 * q_idx + 3 * kv_idx > 300",
        "q_idx >= kv_idx and 3 * q_idx <= 2 * kv_idx + width",
    ],
)
def test_the_torch_kernel_visits_exactly_the_tiles_that_hold_a_pair(mask, monkeypatch):
    spec = spec_of(mask)
    q = torch.randn(1, 1, 257, 8)
    taken = []
    lists = Runs.lists
    monkeypatch.setattr(Runs, "lists", lambda runs: taken.extend(lists(runs)) or lists(runs))
    out, _ = attend(pipeline.remember(spec), q, q, q, (), (70,), scale=0.3, tile_q=16, tile_kv=8)
    visible = evaluate_dense(spec.mask, {"batch": 1, "heads": 1, "q_len": 257, "kv_len": 257}, {}, {"width": 70})[0, 0]
    found = torch.full((17, 33), SKIP)
    for row, runs in enumerate(taken):
        for start, end, cut in runs:
            found[row, start:end] = PARTIAL if cut else FULL
    assert torch.equal(found, brute_force(visible, 16, 8))
    assert not torch.equal(found > SKIP, intervals(spec) > SKIP)  # bounds alone would visit more
    torch.testing.assert_close(out, reference(spec, q, q, q, (), {"width": 70}, scale=0.3))


def intervals(spec) -> Tensor:
    """The classes that intervals prove."""
    rows = tile_rows(tile_test(spec.mask), Sizes(1, 1, 257, 257), 16, 8, {"width": 70}, {})
    return torch.stack([row.classes for row in rows])


def test_no_keys_give_no_tiles():
    test = tile_test(spec_of("true").mask)
    assert count_tiles(test, Sizes(1, 1, 5, 0), 64, 64, {}, {}).share == 0.0

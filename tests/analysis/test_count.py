"""Counted tiles are those that a look at every pair finds."""

from __future__ import annotations

import time

import pytest

from attncc.analysis import Visit
from attncc.analysis.bands import summarize_mask
from attncc.analysis.count import Counts, Grid, choose, count_tiles
from attncc.errors import UnsupportedError
from attncc.ir import KV_IDX, Q_IDX, Expr, H, Op, Scalar, conjunction, disjunction, load, param
from tests.analysis.masks import actual, make

DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = make(Op.GE, Q_IDX, KV_IDX)
WINDOW = conjunction(CAUSAL, make(Op.LT, DISTANCE, param("w")))
MASKS = {
    "causal": CAUSAL,
    "window": WINDOW,
    "sink": conjunction(CAUSAL, disjunction(make(Op.LT, DISTANCE, param("w")), make(Op.LT, KV_IDX, 3))),
    "chunked": make(Op.EQ, make(Op.FLOORDIV, Q_IDX, param("w")), make(Op.FLOORDIV, KV_IDX, param("w"))),
    "heads": make(Op.WHERE, make(Op.LT, H, 2), CAUSAL, WINDOW),
    "not window": make(Op.NOT, WINDOW),
    "dilated": conjunction(WINDOW, make(Op.EQ, make(Op.MOD, DISTANCE, 3), 0)),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("grid", [Grid(50, 50, 8, 8), Grid(33, 61, 16, 8), Grid(61, 33, 4, 16), Grid(1, 7, 8, 4)])
def test_counts_are_those_of_every_pair(name: str, grid: Grid) -> None:
    shape = summarize_mask(MASKS[name])
    inputs = {"b": 0, "h": 1 if name != "heads" else 2, "batch": 1, "heads": 4, "w": 11}
    found = count_tiles(shape, grid, inputs)
    sizes = {**inputs, "q_len": grid.q_len, "kv_len": grid.kv_len}
    real = dict.fromkeys(Visit, 0)
    for q in range(0, grid.q_len, grid.tile_q):
        for kv in range(0, grid.kv_len, grid.tile_kv):
            box = (q, min(q + grid.tile_q, grid.q_len) - 1, kv, min(kv + grid.tile_kv, grid.kv_len) - 1)
            real[actual(MASKS[name], box, sizes)] += 1
    assert found == Counts(real[Visit.FULL], real[Visit.PARTIAL], real[Visit.SKIP])


def test_a_million_tokens_are_counted_quickly() -> None:
    shape = summarize_mask(WINDOW)
    start = time.perf_counter()
    found = count_tiles(shape, Grid(1 << 20, 1 << 20, 128, 128), {"w": 4096})
    assert found.visited == 8192 * 33 - 32 * 33 // 2
    assert time.perf_counter() - start < 2.0


def test_a_mask_that_reads_documents_is_not_counted_without_them() -> None:
    def document(position: Expr) -> Expr:
        return load("doc", Scalar.INDEX, position)

    with pytest.raises(UnsupportedError):
        count_tiles(summarize_mask(make(Op.EQ, document(Q_IDX), document(KV_IDX))), Grid(8, 8, 4, 4), {})


def test_exact_ranges_need_neither_test_nor_table() -> None:
    assert choose(summarize_mask(WINDOW), Grid(4096, 4096, 128, 128), {"w": 500}).kind == "ranges"


def test_a_mask_with_holes_is_tested_inside_its_ranges_or_tabulated() -> None:
    # every 16th block of 128 keys: most of the causal triangle is empty
    holes = conjunction(CAUSAL, make(Op.EQ, make(Op.MOD, make(Op.FLOORDIV, KV_IDX, 128), 16), 0))
    shape = summarize_mask(holes)
    once = choose(shape, Grid(16384, 16384, 128, 128), {})
    assert once.costs["test"] < once.costs["ranges"]
    often = choose(shape, Grid(16384, 16384, 128, 128), {}, uses=96)
    assert often.kind == "table"
    assert "ranges" in often.reason

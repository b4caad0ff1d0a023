"""Counts of the gallery's masks: those of every tile tested, at a million tokens for the price of a few."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from attncc.analysis.bands import Bands, MaskShape, summarize_mask
from attncc.analysis.compiled import function_of, names_of
from attncc.analysis.count import Counts, Grid, count_tiles
from attncc.analysis.shape import reads_captures
from attncc.errors import UnsupportedError
from tests.analysis.test_gallery_masks import MASKS, SPECS
from tests.analysis.test_solving_cost import calls
from tests.share import share

SHAPES = {name: summarize_mask(SPECS[name].mask) for name in MASKS}
COUNTED = [
    name
    for name, shape in SHAPES.items()
    if isinstance(shape, Bands) and not reads_captures(shape.test.visit) and not reads_captures(shape.test.full)
]
#: A ladder of distances that double, over exp2 and log2: its rows are no lines.
UNEVEN = {"radial"}
#: Calls that take less than 1 ms, see tests/analysis/test_solving_cost.py.
CALLS = 7_000
MILLION = Grid(1 << 20, 1 << 20, 128, 128)


def values_of(name: str) -> dict[str, int]:
    return {"b": 0, "h": 0, "batch": 2, "heads": 8, **{p.name: p.value for p in SPECS[name].parameters}}


def one_by_one(shape: MaskShape, grid: Grid, inputs: dict[str, int]) -> Counts:
    """Every tile of the grid through the tile test."""
    ends = ("q_min", "q_max", "kv_min", "kv_max")
    roots = [shape.test.visit, shape.test.full]
    others = [name for name in names_of(*roots) if name not in ends]
    values = {**inputs, "q_len": grid.q_len, "kv_len": grid.kv_len}
    test, rest = function_of(roots, (*ends, *others)), [values[name] for name in others]
    full = partial = 0
    for q in range(0, grid.q_len, grid.tile_q):
        for kv in range(0, grid.kv_len, grid.tile_kv):
            tile = q, min(q + grid.tile_q, grid.q_len) - 1, kv, min(kv + grid.tile_kv, grid.kv_len) - 1
            visit, whole = test(*tile, *rest)
            full, partial = full + bool(whole and visit), partial + bool(visit and not whole)
    return Counts(full, partial, grid.tiles - full - partial)


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_those_of_every_tile_tested(name: str) -> None:
    r = random.Random(name)
    for _ in range(share(40)):
        tile_q, tile_kv = r.choice((1, 4, 16)), r.choice((1, 4, 8, 32))
        grid = Grid(r.randrange(1, 50 * tile_q), r.randrange(1, 50 * tile_kv), tile_q, tile_kv)
        inputs = {**values_of(name), "h": r.randrange(8)}
        assert count_tiles(SHAPES[name], grid, inputs) == one_by_one(SHAPES[name], grid, inputs), grid


@pytest.mark.parametrize("name", [name for name in COUNTED if name not in UNEVEN])
def test_a_million_tokens_cost_64_kib_and_a_millisecond(name: str) -> None:
    shape, inputs = SHAPES[name], values_of(name)
    count_tiles(shape, Grid(4096, 4096, 128, 128), inputs)
    tracemalloc.start()
    try:
        made = calls(lambda: count_tiles(shape, MILLION, inputs))
        tracemalloc.clear_traces()
        tracemalloc.reset_peak()
        count_tiles(shape, MILLION, inputs)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert made < CALLS
    print(f"{name}: {made:,} calls")


def test_tiles_that_are_too_many_to_be_tested_one_by_one_are_refused_in_time() -> None:
    shape, inputs = SHAPES["radial"], values_of("radial")
    assert count_tiles(shape, Grid(4096, 4096, 128, 128), inputs).visited > 0
    with pytest.raises(UnsupportedError, match="no straight lines"):
        count_tiles(shape, MILLION, inputs)

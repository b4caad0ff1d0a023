"""The tile analysis of every variant of the gallery: sound everywhere, and tight wherever it is known to be."""

from __future__ import annotations

import pytest
import torch

from attncc import pipeline
from attncc.frontend.trace import trace_functions
from attncc.ir import TRUE, Op, postorder
from attncc.runtime import tiles
from attncc.schedule import Problem, Target
from tests.variants.expected import BATCH, HEADS, NAMES, expected_mask, problem

SKIP, FULL = 0, 2
# Where some tiles stay partial that need not: block lists and ids in an order that minima and maxima do not tell, and
# products of several periods. A variant leaves this list when the analysis has learned it; none may join.
LOOSE = {
    *("bigbird", "block_sparse", "selected_blocks", "hash_buckets", "image_and_text", "shared_prefix"),
    *("tree_ancestors", "tree_intervals", "draft_blocks", "block_diffusion"),
    *("sliding_tile", "radial", "spatial_temporal_heads"),
}


def lowered(name, length):
    entry, sizes, captures, at = problem(name, length)
    spec = trace_functions(*entry.make(sizes.parameters, captures), name=name).spec
    dtypes = tuple(str(captures[capture.name].dtype).removeprefix("torch.") for capture in spec.captures)
    return pipeline.lower(spec, Problem(capture_dtypes=dtypes), Target("torch", "cpu")), spec, sizes, captures, at


@pytest.mark.parametrize(("length", "tile"), [(1, 16), (63, 16), (100, 8)])
@pytest.mark.parametrize("name", NAMES)
def test_tiles_are_skipped_or_full_only_where_the_formula_says_so(name, length, tile):
    found, spec, sizes, captures, at = lowered(name, length)
    # A weight of 0 hides its key through the score alone: for the mask every pair is visible.
    seen = expected_mask(name, at) if name != "key_reweighting" else expected_mask("full", at)
    shape = tiles.Sizes(batch=BATCH, heads=HEADS, q_len=sizes.q_len, kv_len=sizes.kv_len)
    parameters = {parameter.name: parameter.value for parameter in spec.parameters}
    missed = 0
    for b in range(BATCH):
        for h in range(HEADS):
            for row in tiles.tile_rows(found.tile_test, shape, tile, tile, parameters, captures, b=b, h=h):
                for number, kind in enumerate(row.classes.tolist()):
                    box = seen[b, h, row.q0 : row.q1, number * tile : (number + 1) * tile]
                    assert kind != SKIP or not box.any()
                    assert kind != FULL or box.all()
                    missed += (kind != SKIP and not box.any()) + (kind != FULL and box.all())
    assert missed == 0 or name in LOOSE


@pytest.mark.parametrize("name", sorted(LOOSE))
def test_what_the_test_leaves_open_is_found_by_looking_inside(name):
    found, _, sizes, captures, at = lowered(name, 63)
    seen = expected_mask(name, at)
    shape = tiles.Sizes(batch=BATCH, heads=HEADS, q_len=sizes.q_len, kv_len=sizes.kv_len)
    parameters = {parameter.name: parameter.value for parameter in found.spec.parameters}
    for b in range(BATCH):
        for h in range(HEADS):
            given = (found.tile_test, shape, 16, 16, parameters, captures, b, h)
            for row in tiles.tile_rows(*given, mask=found.canonical.mask):
                boxes = torch.tensor(seen[b, h, row.q0 : row.q1]).split(16, 1)
                assert row.classes.tolist() == [FULL if box.all() else int(box.any()) for box in boxes]


@pytest.mark.parametrize("name", NAMES)
def test_what_decides_about_tiles_is_what_the_gallery_says(name):
    entry = problem(name, 63)[0]
    test = lowered(name, 63)[0].tile_test
    reads = test.statistics or any(expr.op is Op.LOAD for expr in postorder(test.visit, test.full))
    assert bool(reads) == (entry.tiles == "tabulated")
    assert (entry.tiles == "dense") == (test.visit is TRUE and test.full is TRUE)

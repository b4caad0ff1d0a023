"""The masks of the gallery, like any other: summarised soundly, most of them as bands."""

from __future__ import annotations

import random

import pytest

from attncc.analysis.bands import Bands, Dense, Tabulated, summarize_mask
from attncc.analysis.certificate import pretended
from attncc.analysis.statistics import reads_along_a_side
from attncc.frontend import trace_functions
from attncc.ir import TRUE, AttentionSpec
from attncc.passes import lift
from attncc.variants.gallery import gallery
from tests.analysis.masks import LENGTH, Undefined, actual, is_sound
from tests.analysis.test_bands import check_ranges
from tests.analysis.test_tiles import by_test
from tests.share import share


def spec_of(name: str) -> AttentionSpec:
    entry = gallery()[name]
    return lift(trace_functions(*entry.at(entry.sizes(LENGTH)), name=name).spec)


SPECS = {name: spec_of(name) for name in gallery()}
MASKS = sorted(name for name, spec in SPECS.items() if spec.mask is not TRUE)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_the_gallery_is_summarised_soundly(name: str) -> None:
    spec = SPECS[name]
    shape = summarize_mask(spec.mask)
    r = random.Random(name)
    sizes = {"batch": 2, "heads": 4, "q_len": LENGTH, "kv_len": LENGTH}
    for _ in range(share(60)):
        parameters = {p.name: p.value for p in spec.parameters}
        inputs = {**sizes, **parameters, "b": r.randrange(2), "h": r.randrange(4)}
        read = pretended(spec.mask, r.randrange(1 << 20))
        tile = r.choice([1, 2, 4, 8])
        q, kv = (r.randrange(0, LENGTH - tile + 1) for _ in range(2))
        box = (q, q + tile - 1, kv, kv + tile - 1)
        try:
            assert is_sound(by_test(shape.test, box, inputs, read), actual(spec.mask, box, inputs, read)), (box, inputs)
            if not isinstance(shape, Dense):
                check_ranges(spec.mask, shape, "q", box[:2], inputs, read)
                check_ranges(spec.mask, shape, "kv", box[2:], inputs, read)
        except Undefined:
            continue


def test_masks_without_captures_along_the_sequence_are_bands() -> None:
    shapes = {name: summarize_mask(SPECS[name].mask) for name in MASKS}
    plain = [name for name in MASKS if not reads_along_a_side(SPECS[name].mask)]
    solved = [name for name in plain if isinstance(shapes[name], Bands)]
    print(f"{len(solved)} of {len(plain)} masks of the gallery are bands, {len(MASKS) - len(plain)} read captures")
    assert len(solved) >= 0.95 * len(plain)
    assert all(isinstance(shapes[name], Tabulated) for name in MASKS if name not in plain)

"""Every variant of the gallery on the Triton back end, in Triton's interpreter, against the float64 reference."""

from __future__ import annotations

import random

import pytest

from attncc.variants.gallery import gallery
from tests.interpreter import interpreted
from tests.share import SEED, SHARE

#: As promised to users, relative to max(1, largest reference value), for results and for gradients.
TOLERANCES = {"float32": (1e-5, 5e-5), "float16": (2e-3, 4e-3)}
#: Length, heads, query heads for each kv head, head size, value size.
SHAPES = ((21, 4, 4, 16, 16), (40, 2, 2, 24, 16), (35, 2, 1, 16, 32), (19, 7, 7, 16, 16))


def chosen() -> list[tuple[str, tuple[int, ...], str]]:
    """Variants with a shape and a dtype each: a seeded share of all, or every one in float32 and in float16."""
    every = [
        (name, SHAPES[(i + turn) % len(SHAPES)], dtype)
        for i, name in enumerate(gallery())
        for turn, dtype in enumerate(TOLERANCES)
    ]
    every += [(name, SHAPES[(i + 2) % len(SHAPES)], "float32") for i, name in enumerate(gallery())]
    count = max(10, round(len(every) * SHARE))
    return every if count >= len(every) else random.Random(SEED).sample(every, count)


@interpreted
@pytest.mark.parametrize(("name", "shape", "dtype"), chosen(), ids=str)
def test_variant_agrees_with_the_reference(name, shape, dtype):
    import torch

    from tests.runtime.triton.cases import dense, errors, gallery_case, outcome, triton

    torch.set_num_threads(1)
    length, heads, group, dim, value_dim = shape
    case = gallery_case(name, length, heads=heads, group=group, dim=dim, value_dim=value_dim)
    found = outcome(triton(case, (16, 16)), *case.tensors(getattr(torch, dtype)))
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    tolerance = [TOLERANCES[dtype][0]] * 2 + [TOLERANCES[dtype][1]] * (len(wanted) - 2)
    wrong = [
        f"result {i}: {each:.1e}"
        for i, (each, most) in enumerate(zip(errors(found, wanted), tolerance, strict=True))
        if not each <= most
    ]
    assert not wrong, ", ".join(wrong)

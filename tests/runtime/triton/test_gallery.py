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


def around() -> list[str]:
    """A seeded half of this run's share of the gallery."""
    every = list(gallery())
    return random.Random(SEED + 1).sample(every, max(4, round(len(every) * SHARE / 2)))


@interpreted
@pytest.mark.parametrize("name", around())
def test_what_lies_around_tensors_is_never_read(name):
    import torch

    from tests.runtime.triton.cases import gallery_case, outcome, triton, within_nan

    torch.set_num_threads(1)
    case = gallery_case(name, 19, batch=1, heads=2, group=2)
    own, captures = case.tensors(torch.float32)
    plain = outcome(triton(case, (16, 16)), own, captures)
    for units in (16, 3):  # strides and addresses that are multiples of 16, and others
        within = outcome(triton(case, (16, 16)), *([within_nan(t, units) for t in each] for each in (own, captures)))
        for a, b in zip(plain, within, strict=True):
            assert (a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())

"""Torch functions made of a spec say what the spec says."""

from __future__ import annotations

import math

import pytest
import torch

from attncc.frontend.parse import parse
from attncc.measure.cases import CASES, Shape, visible_pairs
from attncc.measure.functions import torch_functions
from attncc.reference import reference_scores
from tests.numeric.test_random_variants import is_smooth
from tests.share import share
from tests.strategies import random_problem

SMALL = Shape(2, 4, 2, 33, 40, 8)
SIZES = {"batch": 2, "heads": 4, "q_len": 33, "kv_len": 40}


def axes(batch, heads, q_len, kv_len):
    return [
        torch.arange(n).view([-1 if d == i else 1 for d in range(4)])
        for i, n in enumerate((batch, heads, q_len, kv_len))
    ]


@pytest.mark.parametrize("seed", range(share(200)))
def test_functions_of_random_variants_agree_with_the_reference(seed):
    problem = random_problem(seed)
    values = problem.values(torch.float32)
    wanted = reference_scores(
        problem.spec, values.q, values.k, values.captures, problem.named_parameters, check_bounds=False
    )
    captures = {c.name: tensor for c, tensor in zip(problem.spec.captures, values.captures, strict=True)}
    sizes = problem.sizes.inputs
    score, mask = torch_functions(problem.spec, captures, {**problem.named_parameters, **sizes})
    at = axes(*sizes.values())
    plain = values.q @ values.k.repeat_interleave(problem.sizes.heads // problem.sizes.kv_heads, 1).mT
    found = plain / math.sqrt(problem.sizes.head_dim)
    try:
        found = found if score is None else torch.as_tensor(score(found, *at))  # a constant may be a plain number
        shown = torch.as_tensor(True if mask is None else mask(*at))
    except IndexError:
        pytest.skip("it reads beyond a tensor at hidden pairs, which torch refuses")
    found = torch.where(shown, found.broadcast_to(wanted.shape), -math.inf)
    assert torch.equal(found == -math.inf, wanted == -math.inf) or not is_smooth(problem)
    if is_smooth(problem):
        atol = 1e-4 * float(wanted.nan_to_num(0, 0, 0).abs().max() + 1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=atol, equal_nan=True)


def test_a_variant_that_changes_nothing_has_no_functions():
    assert torch_functions(parse("attn 1\nattention full:\n  score = score\n"), {}, SIZES) == (None, None)


@pytest.mark.parametrize("name", CASES)
def test_visible_pairs_are_counted(name):
    _, mask_mod = CASES[name][1](SMALL, "cpu")
    b, h, i, j = axes(*SIZES.values())
    wanted = torch.ones(2, 4, 33, 40).sum() if mask_mod is None else mask_mod(b, h, i, j).expand(2, 4, 33, 40).sum()
    assert visible_pairs(mask_mod, SMALL, "cpu") == float(wanted)


def test_a_mask_that_differs_between_heads_is_counted_for_each():
    mask = lambda b, h, i, j: (i >= j) | (h == 1)  # noqa: E731  # a mask, as users write them
    _, h, i, j = axes(*SIZES.values())
    assert visible_pairs(mask, SMALL, "cpu") == float(mask(0, h, i, j).expand(2, 4, 33, 40).sum())

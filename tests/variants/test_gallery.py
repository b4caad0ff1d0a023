"""Every variant of the gallery means what its formula says: against plain NumPy, and in torch's eager FlexAttention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from attncc.variants.gallery import gallery
from tests.variants.biased import BIASED
from tests.variants.expected import BATCH, HEADS, NAMES, expected_mask, expected_output, problem, random_qkv
from tests.variants.visible import VISIBLE

# torch warns that its eager form is slow; here only its meaning is asked.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def bound(part, sizes):
    """A score or mask with the sizes that it asks for, as torch needs it."""
    values = {"q_len": sizes.q_len, "kv_len": sizes.kv_len, "batch": sizes.batch, "heads": sizes.heads}
    return part.bind(**{name: values[name] for name in part.sizes})


def test_the_gallery_has_at_least_seventy_variants():
    assert len(NAMES) >= 70


def test_every_definition_belongs_to_a_variant_and_every_variant_has_one():
    assert set(VISIBLE) | set(BIASED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_has_a_formula_a_citation_and_a_docstring(name):
    entry = gallery()[name]
    for part in entry.parts:
        assert part.formula
        assert any(year in part.citation for year in map(str, range(2017, 2027)))
    for part in (entry.score, entry.mask):
        assert part is None or part.__doc__


@pytest.mark.parametrize("length", [1, 40, 63])
@pytest.mark.parametrize("name", [name for name in NAMES if gallery()[name].mask is not None])
def test_mask_sees_exactly_the_pairs_of_its_formula(name, length):
    entry, sizes, captures, at = problem(name, length)
    _, mask = entry.make(sizes.parameters, captures)
    found = create_mask(bound(mask, sizes), BATCH, HEADS, sizes.q_len, sizes.kv_len, device="cpu").numpy()
    expected = expected_mask(name, at)
    if name == "adaptive_span":  # there the score masks as well
        expected = np.broadcast_to(np.tril(np.ones(found.shape[-2:], dtype=bool)), found.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("name", NAMES)
def test_eager_flex_attention_agrees_with_the_formula(name, length):
    entry, sizes, captures, at = problem(name, length)
    doubled = {key: value.double() if value.is_floating_point() else value for key, value in captures.items()}
    score, mask = entry.make(sizes.parameters, doubled)
    blocks = None
    if mask is not None:
        blocks = create_block_mask(bound(mask, sizes), BATCH, HEADS, sizes.q_len, sizes.kv_len, device="cpu")
    q, k, v = random_qkv(sizes)
    found = flex_attention(q, k, v, score_mod=None if score is None else bound(score, sizes), block_mask=blocks)
    expected = expected_output(name, at, q.numpy(), k.numpy(), v.numpy())
    # Sums with float32 captures and constants inside torch's functions round to float32 here and there.
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_seeded(name):
    entry = gallery()[name]
    sizes = entry.sizes(40)
    first, second = entry.captures(sizes, seed=3), entry.captures(sizes, seed=3)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)

"""The gallery as `.attn` text means what its formulas say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attncc.frontend.parse import parse, read_source
from attncc.reference import reference, reference_scores
from attncc.variants.gallery import gallery
from tests.variants.expected import NAMES, expected_mask, expected_output, problem, random_qkv

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "gallery"


def spec_of(name):
    return parse(read_source(FOLDER / f"{name}.attn"))


def chosen(spec, sizes):
    """The example's parameters, as far as the definition has them."""
    known = {parameter.name for parameter in spec.parameters}
    return {name: value for name, value in sizes.parameters.items() if name in known}


def test_every_variant_has_its_text_and_every_text_its_variant():
    assert {path.stem for path in FOLDER.glob("*.attn")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_text_opens_with_the_formula_and_the_citation_of_the_variant(name):
    entry = gallery()[name]
    lines = (FOLDER / f"{name}.attn").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "attn 1"
    assert lines[1].startswith("# ")
    assert lines[2:4] == [f"# {entry.formula}", f"# {entry.citation}"]


@pytest.mark.parametrize("name", NAMES)
def test_text_has_the_name_and_the_defaults_of_the_variant(name):
    spec = spec_of(name)
    assert spec.name == name
    if name != "t5_bias":  # its text is written for buckets already halved
        assert {parameter.name: parameter.value for parameter in spec.parameters} == gallery()[name].defaults


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("name", NAMES)
def test_text_sees_exactly_the_pairs_of_the_formula(name, length):
    _, sizes, captures, at = problem(name, length)
    spec = spec_of(name)
    q, k, _ = random_qkv(sizes)
    scores = reference_scores(spec, q, k, captures, chosen(spec, sizes))
    np.testing.assert_array_equal((scores != -float("inf")).numpy(), expected_mask(name, at))


@pytest.mark.parametrize("length", [1, 40, 63])
@pytest.mark.parametrize("name", NAMES)
def test_text_agrees_with_the_formula_in_float64(name, length):
    _, sizes, captures, at = problem(name, length)
    spec = spec_of(name)
    doubled = {key: value.double() if value.is_floating_point() else value for key, value in captures.items()}
    q, k, v = random_qkv(sizes)
    found = reference(spec, q, k, v, doubled, chosen(spec, sizes))
    expected = expected_output(name, at, q.numpy(), k.numpy(), v.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)

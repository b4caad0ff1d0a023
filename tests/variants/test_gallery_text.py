"""The gallery as `.attn` text means what its formulas say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attncc.frontend.parse import parse, read_source
from attncc.frontend.trace import fingerprint, trace, trace_functions
from attncc.ir import print_spec
from attncc.reference import reference, reference_scores
from attncc.variants.causal import causal_bottom_right
from attncc.variants.define import mask
from attncc.variants.documents import causal_documents
from attncc.variants.gallery import gallery
from attncc.variants.windows import sliding_window
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


def traced(name, parameters=None):
    """The Python form at an example, traced."""
    entry = gallery()[name]
    sizes = entry.sizes(16, parameters=entry.defaults if parameters is None else parameters)
    return trace_functions(*entry.at(sizes), name=name)


@pytest.mark.parametrize("name", NAMES)
def test_python_and_text_are_shown_with_the_same_bytes(name):
    assert print_spec(traced(name).spec) == print_spec(spec_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_python_form_is_followed_whole_and_its_numbers_stay_parameters(name):
    found = traced(name)
    assert found.opaque is None
    assert len(found.spec.parameters) == len(spec_of(name).parameters)


@pytest.mark.parametrize("name", [name for name in NAMES if gallery()[name].defaults and name != "t5_bias"])
def test_other_parameters_and_captures_are_the_same_definition(name):
    entry = gallery()[name]
    first = entry.at(entry.sizes(16, parameters=entry.defaults))
    second = entry.at(entry.sizes(20), seed=1)
    assert fingerprint(*first) == fingerprint(*second) is not None
    assert trace_functions(*first).spec.score is trace_functions(*second).spec.score
    assert trace_functions(*first).spec.mask is trace_functions(*second).spec.mask


def test_a_composition_is_traced_like_the_same_words_in_one_function():
    window = 16

    def packed(b, h, q_idx, kv_idx):
        return ((doc_ids[b, q_idx] == doc_ids[b, kv_idx]) & (q_idx >= kv_idx)) & (
            (q_idx >= kv_idx) & (q_idx - kv_idx < window)
        )

    doc_ids = torch.zeros(1, 8, dtype=torch.int64)
    composed = trace(causal_documents(doc_ids) & sliding_window(window))
    written = trace(mask(captures={"doc_ids": "int[batch, kv_len]"})(packed))
    assert composed == written


def test_a_mask_that_asks_for_sizes_reads_the_call_and_a_bound_one_does_not():
    asks = trace(~causal_bottom_right & sliding_window(4))
    bound = trace((~causal_bottom_right).bind(q_len=3, kv_len=7) & sliding_window(4))
    assert [parameter.name for parameter in asks.parameters] == ["window"]
    assert sorted(parameter.value for parameter in bound.parameters) == [3, 4, 7]

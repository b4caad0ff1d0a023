"""Every variant of the gallery, compiled, agrees with the float64 reference, forward and all gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attncc
from attncc.reference import reference
from attncc.variants.gallery import gallery

NAMES = list(gallery())
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "gallery"
BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM = 2, 8, 2, 16, 24
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5


def inputs(sizes):
    """q, k, v and the gradients of out and lse, in float32."""
    generator = torch.Generator().manual_seed(5)
    shapes = (
        (BATCH, HEADS, sizes.q_len, DIM),
        (BATCH, KV_HEADS, sizes.kv_len, DIM),
        (BATCH, KV_HEADS, sizes.kv_len, VALUE_DIM),
        (BATCH, HEADS, sizes.q_len, VALUE_DIM),
        (BATCH, HEADS, sizes.q_len),
    )
    return [torch.randn(shape, generator=generator) for shape in shapes]


def results(attend, sizes, captures, dtype):
    """out, lse and the gradient of each float tensor, by name, in float64."""
    q, k, v, grad_out, grad_lse = (each.to(dtype) for each in inputs(sizes))
    leaves = {"q": q, "k": k, "v": v}
    given = {name: each.to(dtype) if each.is_floating_point() else each for name, each in captures.items()}
    leaves |= {name: each for name, each in given.items() if each.is_floating_point()}
    for name, leaf in leaves.items():
        leaves[name] = given[name] = leaf.clone().requires_grad_()
    out, lse = attend(given.pop("q"), given.pop("k"), given.pop("v"), given)
    loss = (out * grad_out).sum() + torch.where(lse.detach().isfinite(), lse, 0.0).mul(grad_lse).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {"out": out, "lse": lse} | {f"d {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: None if each is None else each.detach().double() for name, each in found.items()}


def compare(found, expected):
    """Both agree within the tolerance of their kind; None stands for a gradient of 0."""
    for name, reference_value in expected.items():
        value = found[name]
        if value is None or reference_value is None:
            assert value is None or not value.any(), name
            assert reference_value is None or not reference_value.any(), name
            continue
        assert torch.equal(value.isfinite(), reference_value.isfinite()), name
        value, wanted = value.nan_to_num(0, 0, 0), reference_value.nan_to_num(0, 0, 0)
        tolerance = GRADIENT_TOLERANCE if name.startswith("d ") else OUTPUT_TOLERANCE
        error = (value - wanted).abs().max().item()
        limit = tolerance * max(1.0, wanted.abs().max().item())
        assert error <= limit, f"{name}: {error:.2e} > {limit:.2e}"


@pytest.mark.parametrize("length", [1, 63, 100, 257])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_variant_agrees_with_the_float64_reference(name, length):
    entry = gallery()[name]
    sizes = entry.sizes(length, BATCH, HEADS)
    captures = entry.captures(sizes)

    def compiled(q, k, v, given):
        score, mask = entry.make(sizes.parameters, given)
        return attncc.compile(score_mod=score, mask_mod=mask)(q, k, v, return_lse=True)

    score, mask = entry.make(sizes.parameters, captures)
    spec = attncc.compile(score_mod=score, mask_mod=mask).spec

    def dense(q, k, v, given):
        return reference(spec, q, k, v, given, return_lse=True)

    compare(results(compiled, sizes, captures, torch.float32), results(dense, sizes, captures, torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_text_computes_the_very_same_numbers(name):
    entry = gallery()[name]
    sizes = entry.sizes(63, BATCH, HEADS)
    captures = entry.captures(sizes)
    score, mask = entry.make(sizes.parameters, captures)
    text = attncc.load(FOLDER / f"{name}.attn")
    known = {parameter.name for parameter in text.spec.parameters}
    chosen = {key: value for key, value in sizes.parameters.items() if key in known}
    q, k, v, _, _ = inputs(sizes)
    found = text(q, k, v, **captures, **chosen)
    assert torch.equal(found, attncc.compile(score_mod=score, mask_mod=mask)(q, k, v))

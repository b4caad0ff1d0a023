"""Every variant of the gallery on the torch back end, against the float64 reference: out, lse and all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attncc.frontend import trace_functions
from attncc.reference import reference
from attncc.variants.entry import Entry
from attncc.variants.gallery import gallery
from tests.numeric.kernels import attend, difference

LENGTHS = (1, 63, 100, 257)
#: As promised to users, relative to max(1, largest reference value).
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5


def tensors(entry: Entry, length: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """q, k and v with four query heads for each kv head, and the captured tensors; floats take gradients."""
    sizes = entry.sizes(length, batch=2, heads=4)
    numbers = torch.Generator().manual_seed(length)
    shapes = [(2, 4, sizes.q_len, 16), (2, 1, sizes.kv_len, 16), (2, 1, sizes.kv_len, 24)]
    own = [torch.randn(shape, generator=numbers, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    read = traced(entry, length).read(*entry.at(sizes)).captures
    captures = [
        c.detach().to(dtype).requires_grad_() if c.is_floating_point() else c for c in (t.clone() for t in read)
    ]
    return own, captures


def traced(entry: Entry, length: int):
    """The variant's spec with what reads its captured tensors."""
    return trace_functions(*entry.at(entry.sizes(length, batch=2, heads=4)), name=entry.name)


def outcome(call, own: list[Tensor], captures: list[Tensor]) -> list[Tensor | None]:
    """Out, lse and the gradients of a fixed loss."""
    out, lse = call(*own, captures)
    loss = sum(
        (t * torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view(t.shape)).sum() for t in (out, finite(lse))
    )
    leaves = [t for t in (*own, *captures) if t.requires_grad]
    return [out, finite(lse), *torch.autograd.grad(loss, leaves, allow_unused=True)]


def finite(lse: Tensor) -> Tensor:
    """The lse with 0 for rows without a visible key."""
    return torch.where(lse == -torch.inf, 0.0, lse)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("entry", gallery().values(), ids=gallery())
def test_variant_agrees_with_the_reference_in_float32(entry, length):
    found = traced(entry, length)
    parameters = found.read(*entry.at(entry.sizes(length, batch=2, heads=4))).parameters
    named = {p.name: value for p, value in zip(found.spec.parameters, parameters, strict=True)}
    ours = outcome(
        lambda q, k, v, captures: attend(found.spec, q, k, v, captures, parameters),
        *tensors(entry, length, torch.float32),
    )
    wanted = outcome(
        lambda q, k, v, captures: reference(found.spec, q, k, v, captures, named, return_lse=True),
        *tensors(entry, length, torch.float64),
    )
    tolerances = [OUTPUT_TOLERANCE] * 2 + [GRADIENT_TOLERANCE] * len(wanted)
    for a, b, tolerance in zip(ours, wanted, tolerances, strict=False):
        assert difference(a, b) <= tolerance

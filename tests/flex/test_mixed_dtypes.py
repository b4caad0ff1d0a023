"""Keys and values of fewer bits than the queries: converted, with gradients, and near to what full precision gives."""

from __future__ import annotations

import pytest
import torch

from attncc import flex
from tests.flex.mods import alibi, causal
from tests.flex.oracle import close, eager, tensors, theirs

PAIRS = [
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float8_e4m3fn),
    (torch.float32, torch.float8_e5m2),
]


def quantised(tensor, dtype, dims):
    """A tensor in few bits, and the factors to multiply it with."""
    scale = tensor.abs().amax(dims, keepdim=True) / torch.finfo(dtype).max
    return (tensor / scale).to(dtype), scale


def signal_to_noise(wanted, found):
    """In decibels."""
    return float(20 * torch.log10(wanted.norm() / (wanted - found.double()).norm()))


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_keys_and_values_are_converted(wide, narrow):
    q, k, v = tensors(dtype=wide)
    k, v = k.to(narrow), v.to(narrow)
    mask = flex.create_block_mask(causal, None, None, 64, 64, "cpu")
    found = flex.flex_attention(q, k, v, alibi(4), mask)
    assert found.dtype == wide
    assert torch.equal(found, flex.flex_attention(q, k.to(wide), v.to(wide), alibi(4), mask))
    if wide == torch.float32:
        with eager():
            shown = theirs.create_block_mask(causal, None, None, 64, 64, "cpu")
            wanted = theirs.flex_attention(q, k.to(wide), v.to(wide), alibi(4), shown)
        close("out", found, wanted, 2e-5)


def test_their_gradients_have_their_dtype():
    q, k, v = tensors(dtype=torch.float32)
    k, v = (t.half().requires_grad_() for t in (k, v))
    flex.flex_attention(q.requires_grad_(), k, v).sin().sum().backward()
    wide = [t.detach().float().requires_grad_() for t in (k, v)]
    flex.flex_attention(q.detach(), *wide).sin().sum().backward()
    for narrow, other in zip((k, v), wide, strict=True):
        assert narrow.grad.dtype == torch.float16
        close("gradient", narrow.grad, other.grad.half(), 1e-3)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_with_factors_in_the_score(dtype, by_head):
    q, k, v = tensors(dtype=torch.float64)
    dims = (2, 3) if by_head else (0, 1, 2, 3)
    (k8, of_k), (v8, of_v) = (quantised(t.float(), dtype, dims) for t in (k, v))
    factors = of_k.expand(2, 4, 1, 1)[:, :, 0, 0].contiguous()

    def dequantise(score, b, h, i, j):
        return score * factors[b, h]

    out = flex.flex_attention(q.to(torch.bfloat16), k8, v8, dequantise).float() * of_v
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert signal_to_noise(wanted, out) > 10
    exactly = torch.nn.functional.scaled_dot_product_attention(
        q.to(torch.bfloat16).double(), k8.double() * of_k.double(), v8.double() * of_v.double()
    )
    assert signal_to_noise(exactly, out) > 35  # what is lost beyond the eight bits themselves

"""Attention under functional transforms: gradients as everywhere else, and refusals that say what to do."""

from __future__ import annotations

import pytest
import torch

import attncc
from attncc.errors import UnsupportedError

TEXT = """attn 1
attention biased:
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0
  score = score - slopes[h] * distance
"""


def inputs():
    torch.manual_seed(0)
    return (*(torch.randn(2, 4, 17, 8, dtype=torch.float64) for _ in range(3)), torch.rand(4, dtype=torch.float64))


def loss(q, k, v, slopes):
    out, lse = attncc.loads(TEXT)(q, k, v, slopes=slopes, return_lse=True)
    return out.sin().sum() + lse.sum()


@pytest.mark.parametrize("wanted", [(0,), (0, 1, 2), (0, 1, 2, 3), (3,)])
def test_gradients_of_torch_func_are_those_of_autograd(wanted):
    leaves = [t.requires_grad_(i in wanted) for i, t in enumerate(inputs())]
    expected = torch.autograd.grad(loss(*leaves), [leaves[i] for i in wanted])
    found = torch.func.grad(loss, wanted)(*inputs())
    for mine, other in zip(expected, found, strict=True):
        assert torch.allclose(other, mine, rtol=0, atol=1e-12)


def test_values_come_with_gradients():
    gradient, value = torch.func.grad_and_value(loss)(*inputs())
    assert torch.equal(value, loss(*inputs()))
    assert torch.equal(gradient, torch.func.grad(loss)(*inputs()))


def test_functions_of_python_have_gradients_too():
    q, k, v, _ = inputs()

    def of_functions(q, k, v):
        return attncc.attention(q, k, v, lambda s, b, h, i, j: s * 2, lambda b, h, i, j: i >= j).sin().sum()

    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(of_functions(*leaves), leaves)
    for mine, other in zip(expected, torch.func.grad(of_functions, (0, 1, 2))(q, k, v), strict=True):
        assert torch.allclose(other, mine, rtol=0, atol=1e-12)


def test_second_derivatives_are_refused():
    q, k, v, slopes = inputs()
    with pytest.raises(UnsupportedError, match="cannot be differentiated twice"):
        torch.func.grad(lambda q: torch.func.grad(loss)(q, k, v, slopes).sum())(q)


def test_vmap_is_refused():
    q, k, v, slopes = inputs()
    many = torch.stack([q, q])
    with pytest.raises(UnsupportedError, match=r"cannot run under torch\.vmap"):
        torch.vmap(lambda q: loss(q, k, v, slopes))(many)

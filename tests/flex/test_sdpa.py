"""`attncc.sdpa` is torch's scaled_dot_product_attention: shapes, masks, gradients, refusals."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import attncc
from attncc.errors import InputError, UnsupportedError
from tests.flex.oracle import close, tensors


def agree(qkv, mask=None, **given):
    learns = mask is not None and mask.is_floating_point()
    leaves = [t.detach().clone().requires_grad_() for t in (*qkv, *([mask] if learns else []))]
    results = []
    for function in (scaled_dot_product_attention, attncc.sdpa):
        with sdpa_kernel(SDPBackend.MATH):
            out = function(*leaves[:3], leaves[3] if learns else mask, **given)
        results.append((out, *torch.autograd.grad(out.sin().sum(), leaves)))
    for name, wanted, found in zip("oqkvm", *results, strict=False):
        close(name, found, wanted, 1e-11)


def test_the_signature_is_that_of_torch():
    names = list(inspect.signature(attncc.sdpa).parameters)
    assert names == ["query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"]


@pytest.mark.parametrize("given", [{}, {"is_causal": True}, {"scale": 0.3}, {"is_causal": True, "scale": 1.0}])
@pytest.mark.parametrize("kv_len", [40, 64])
def test_without_a_mask(given, kv_len):
    agree(tensors(q_len=64, kv_len=kv_len, value_dim=5), **given)


@pytest.mark.parametrize("shape", [(2, 4, 30, 40), (1, 4, 30, 40), (2, 1, 1, 40), (30, 40), (4, 30, 1), (1, 1), (40,)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_every_shape(shape, kind):
    mask = torch.randn(shape, dtype=torch.float64)
    if kind == "bool":
        mask = mask > -1.0
        mask[..., 0] = True
    agree(tensors(q_len=30, kv_len=40), mask)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_any_number_of_batch_dimensions(lead, masked):
    q, k, v = (torch.randn(*lead, n, 8, dtype=torch.float64) for n in (20, 25, 25))
    agree((q, k, v), torch.randn(*lead[-2:], 20, 25, dtype=torch.float64) > -1.5 if masked else None)


def test_grouped_heads():
    agree(tensors(kv_heads=2), enable_gqa=True, is_causal=True)
    with pytest.raises(InputError, match="query has 4 heads and key has 2"):
        attncc.sdpa(*tensors(kv_heads=2))


def test_a_query_without_a_key_gives_0():
    q, k, v = tensors()
    mask = torch.arange(64)[:, None] >= 10
    assert torch.all(attncc.sdpa(q, k, v, mask)[:, :, :10] == 0)


def test_minus_infinity_hides():
    mask = torch.zeros(64, 64, dtype=torch.float64).masked_fill(torch.rand(64, 64) < 0.3, -torch.inf)
    agree(tensors(), mask)


def test_refusals():
    q, k, v = tensors()
    with pytest.raises(UnsupportedError, match=r"attncc\.sdpa has no dropout, but `dropout_p` is 0\.1"):
        attncc.sdpa(q, k, v, dropout_p=0.1)
    with pytest.raises(InputError, match="`is_causal` and `attn_mask` are both given"):
        attncc.sdpa(q, k, v, torch.ones(64, 64, dtype=torch.bool), is_causal=True)
    with pytest.raises(InputError, match="does not broadcast"):
        attncc.sdpa(q, k, v, torch.ones(63, 64, dtype=torch.bool))
    with pytest.raises(InputError, match="must be bool or float, but is int64"):
        attncc.sdpa(q, k, v, torch.ones(64, 64, dtype=torch.int64))
    with pytest.raises(InputError, match="1 dimensions"):
        attncc.sdpa(q[0, 0, 0], k, v)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of many things
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_it_is_one_graph(masked):
    torch._dynamo.reset()
    leaves = [t.requires_grad_() for t in tensors(q_len=32)]
    mask = torch.rand(2, 1, 32, 32) > 0.2 if masked else None

    def model(q, k, v):
        return attncc.sdpa(q * 2, k, v, mask, is_causal=not masked).sin().sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(each(*leaves), leaves) for each in (model, compiled)]
    for wanted, found in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-11)
    torch._dynamo.reset()

"""`flex_attention` gives what PyTorch's eager one gives: built-in functions, shapes, strides, special rows."""

from __future__ import annotations

import pytest
import torch

from attncc import flex
from tests.flex import mods
from tests.flex.oracle import agree, close, eager, tensors, theirs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", mods.SCORES)
def test_scores(name, dtype):
    # torch takes the tangent of an int in float32
    agree(mods.SCORES[name], qkv=tensors(dtype=dtype), tolerance=2e-5 if "trig" in name else None)


@pytest.mark.parametrize("name", ["relative bias", "alibi", "causal"])
def test_half_the_queries(name):
    agree(mods.SCORES[name], qkv=tensors(q_len=32, kv_len=64))


@pytest.mark.parametrize("block", [16, 32, (16, 32), (32, 16), 128, 256])
def test_block_sizes(block):
    agree(mods.rel_bias, mods.causal, tensors(q_len=64), block=block)


@pytest.mark.parametrize("q_len", [1, 2, 15, 63, 65, 127, 130])
def test_lengths_that_no_block_divides(q_len):
    agree(mods.times_two, mods.causal, tensors(q_len=q_len, kv_len=q_len + 3), block=64)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("score", ["identity", "alibi"])
def test_grouped_heads(kv_heads, score):
    agree(mods.SCORES[score], mods.causal, tensors(q_len=8, kv_len=64, kv_heads=kv_heads))


@pytest.mark.parametrize("masked", [False, True])
def test_keys_of_one_batch_serve_all(masked):
    mask = mods.causal if masked else flex.noop_mask
    agree(mods.rel_bias, mask, tensors(batch=3, kv_batch=1), batch=3)


@pytest.mark.parametrize(("head_dim", "value_dim"), [(16, 24), (24, 16), (17, 17), (1, 3), (24, 121)])
def test_head_sizes(head_dim, value_dim):
    agree(mods.rel_bias, mods.causal, tensors(head_dim=head_dim, value_dim=value_dim))


def test_scale():
    agree(mods.squared, mods.causal, scale=0.3)


def test_no_functions_at_all():
    agree()


def test_one_query_and_one_key():
    agree(mods.times_two, mods.causal, tensors(q_len=1))


def test_many_batches():
    agree(None, mods.causal, tensors(batch=150, heads=3, q_len=4))


def test_rows_without_a_key():
    def late(b, h, q, kv):
        return q >= 20

    agree(None, late)
    q, k, v = tensors()
    out, aux = flex.flex_attention(
        q,
        k,
        v,
        block_mask=flex.create_block_mask(late, None, None, 64, 64, "cpu"),
        return_aux=flex.AuxRequest(lse=True),
    )
    assert torch.all(out[:, :, :20] == 0)
    assert torch.all(aux.lse[:, :, :20] == -torch.inf)


def test_a_document_without_keys():
    owner = torch.tensor([0] * 20 + [1] * 30 + [2] * 14)

    def documents(b, h, q, kv):
        return (owner[q] == owner[kv]) & (owner[q] != 1)

    agree(None, documents, block=16)


@pytest.mark.parametrize("q_len", [37, 64])
def test_poison_in_unread_places_stays_there(q_len):
    table = torch.full((2, 200), float("nan"), dtype=torch.float64)
    table[:, :130] = torch.randn(2, 130, dtype=torch.float64)

    def bias(score, b, h, q, kv):
        return score + table[b, q - kv + 64]

    agree(bias, None, tensors(q_len=q_len))


def test_functions_with_poles():
    positive = tuple(t.abs() + 0.1 for t in tensors(q_len=33))
    agree(lambda score, b, h, q, kv: 1 / score, None, positive)
    agree(lambda score, b, h, q, kv: torch.log(score), None, positive)


def layouts(shape):
    """One tensor of a shape in several layouts."""
    b, h, n, d = shape
    size = b * h * n * d
    yield torch.randn(size + 7, dtype=torch.float64)[7:].view(shape)
    yield torch.randn(b, n, h, d, dtype=torch.float64).transpose(1, 2)
    yield torch.randn(b, h, n, d + 5, dtype=torch.float64)[..., :d]
    yield torch.randn(b, h, d, n, dtype=torch.float64).transpose(2, 3)
    yield torch.randn(1, h, n, d, dtype=torch.float64).expand(shape)


@pytest.mark.parametrize("layout", range(5))
def test_strides(layout):
    q, k, v = (list(layouts((2, 4, 48, 8)))[(layout + i) % 5] for i in range(3))
    agree(mods.rel_bias, mods.causal, (q, k, v))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (1, 2, 0, 3)])
def test_the_output_has_the_layout_of_the_queries(order):
    shape = (2, 4, 48, 8)
    place = [order.index(i) for i in range(4)]
    q, k, v = (torch.randn([shape[i] for i in order]).permute(place) for _ in range(3))
    with eager():
        wanted = theirs.flex_attention(q, k, v, mods.times_two)
    assert flex.flex_attention(q, k, v, mods.times_two).stride() == wanted.stride()


def test_several_variants_in_one_program():
    qkv = tensors()
    for score in mods.SCORES.values():
        for mask in (mods.causal, mods.window(5), mods.window(9), None):
            agree(score, mask, qkv, gradients=False, tolerance=2e-5)


def test_changed_closures_are_seen():
    qkv, factor = tensors(), 2.0

    def scaled(score, b, h, q, kv):
        return score * factor

    agree(scaled, None, qkv)
    factor = 3.0
    agree(scaled, None, qkv)


def test_low_precision_keys_are_converted():
    q, k, v = tensors(dtype=torch.float32)
    k, v = k.half(), v.half()
    with eager():
        wanted = theirs.flex_attention(q, k.float(), v.float(), mods.times_two)  # torch itself converts since 2.11
    close("out", flex.flex_attention(q, k, v, mods.times_two), wanted, 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    agree(mods.rel_bias, mods.causal, tensors(dtype=dtype), gradients=False)


def test_autocast():
    q, k, v = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = flex.flex_attention(q, k, v, mods.rel_bias)
        with eager():
            wanted = theirs.flex_attention(q, k, v, mods.rel_bias)
    assert ours.dtype == torch.bfloat16
    close("out", ours, wanted.to(torch.bfloat16), 3e-2)

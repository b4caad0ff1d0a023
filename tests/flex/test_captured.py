"""Captured tensors, read in every way that PyTorch's own tests read them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attncc import flex
from tests.flex.oracle import agree, tensors

B, H, S = 2, 4, 64
D = torch.float64


def functions():
    """A score and a mask function for each way to read."""
    bias_q = torch.randn(S, dtype=D)
    batch_q = torch.randn(B, S, dtype=D)
    every = torch.randn(B, H, S, S, dtype=D)
    head_scale, batch_scale = torch.randn(H, dtype=D), torch.randn(B, dtype=D)
    q_scale, kv_scale = torch.randn(S, dtype=D), torch.randn(S, dtype=D)
    relative = torch.randn(2 * S, dtype=D)
    factor = torch.tensor(1.7, dtype=D)
    numbers = torch.randint(0, S, (B, S))
    owner = torch.randint(0, 4, (S,)).sort().values
    lengths = torch.tensor([13, 50])
    vectors = torch.randn(S, 3, dtype=D)
    flat = torch.randn(H * S, dtype=D)
    wide = torch.randn(S, 2, dtype=D)
    return {
        "by query": (lambda s, b, h, q, k: s + bias_q[q], None),
        "by batch and query": (lambda s, b, h, q, k: s + batch_q[b, q], None),
        "by all four": (lambda s, b, h, q, k: s + every[b, h, q, k], None),
        "partial, then the rest": (lambda s, b, h, q, k: s + every[b][h][q][k], None),
        "four scales": (
            lambda s, b, h, q, k: (s + q_scale[q]) * head_scale[h] * batch_scale[b] + kv_scale[k],
            None,
        ),
        "relative": (lambda s, b, h, q, k: s + relative[q - k + S], None),
        "a number": (lambda s, b, h, q, k: s * factor, None),
        "through an index": (lambda s, b, h, q, k: s + bias_q[numbers[b, k]], None),
        "through two indices": (lambda s, b, h, q, k: s + bias_q[owner[numbers[b, q]] + owner[k]], None),
        "a view": (lambda s, b, h, q, k: s + flat.view(H, S)[h, k], None),
        "a column": (lambda s, b, h, q, k: s + wide[:, 1][k], None),
        "a norm of three": (lambda s, b, h, q, k: s + torch.linalg.norm(vectors[q]), None),
        "documents": (None, lambda b, h, q, k: (owner[q] == owner[k]) & (q >= k)),
        "prefix by batch": (None, lambda b, h, q, k: (q >= k) | (k < lengths[b])),
        "padding": (None, lambda b, h, q, k: (q >= k) & (k < lengths[b]) & (q < lengths[b])),
        "odd keys": (lambda s, b, h, q, k: torch.where(k % 2 == 0, s, float("-inf")), None),
        "true division": (None, lambda b, h, q, k: ((q / 8).to(torch.int32) - k / 8).abs() < 2),
        "silu": (lambda s, b, h, q, k: F.silu(s), None),
        "modulo and division": (lambda s, b, h, q, k: s + (q % 7) - (k // 5) + bias_q[(q + k) % S], None),
        "a tensor that is made": (None, lambda b, h, q, k: (q >= k) | b.new_ones((), dtype=torch.bool)),
        "upcast": (lambda s, b, h, q, k: (s.to(torch.float64) * 2).to(s.dtype) + bias_q[q].to(torch.float32), None),
    }


@pytest.mark.parametrize("name", functions())
def test_reads(name):
    score, mask = functions()[name]
    # a cast to float32 is the identity in attncc: nothing is rounded in the middle of an expression
    agree(score, mask, tensors(B, H, S), batch=B, block=16, tolerance=2e-7 if name == "upcast" else None)


@pytest.mark.parametrize("extra", [-3, -1, 3])
def test_reads_where_no_block_divides_the_length(extra):
    bias = torch.randn(S + extra, dtype=D)
    starts = torch.arange(S + extra) // 9 * 9
    agree(
        lambda s, b, h, q, k: s + bias[k],
        lambda b, h, q, k: k >= starts[q],
        tensors(q_len=S + extra),
        block=32,
    )


def test_functions_of_functions():
    scale = torch.randn(H, dtype=D)

    def first(s, b, h, q, k):
        return s * scale[h]

    def second(s, b, h, q, k):
        return first(s, b, h, q, k) + torch.where(q == k, 0.0, 1.0)

    agree(second)


def test_masks_joined():
    owner = torch.arange(S) // 10

    def causal(b, h, q, k):
        return q >= k

    def same(b, h, q, k):
        return owner[q] == owner[k]

    agree(None, flex.and_masks(causal, same), block=16)
    agree(None, flex.or_masks(causal, same), block=16)
    agree(None, flex.and_masks(causal, flex.or_masks(same, lambda b, h, q, k: k < 4)), block=16)


def learnable():
    """A score function and the tensors that it learns, for each bias of PyTorch's TestLearnableBiases and beyond."""

    def made(*shape):
        return torch.randn(*shape, dtype=D, requires_grad=True)

    order = torch.randperm(S)
    line, square, other = made(2 * S), made(S, S), made(S, S)
    by_head, by_batch, gate, window = made(H, S, S), made(B, H, S, S), made(S), made(17)
    heads, single, column, weird = made(H), made(()), made(S), made(B, H, 4, S)
    return {
        "distance": (lambda s, b, h, q, k: s + line[torch.abs(q - k)], [line]),
        "diagonal": (lambda s, b, h, q, k: s + line[q - k + S], [line]),
        "pairs": (lambda s, b, h, q, k: s + square[q, k], [square]),
        "pairs the other way": (lambda s, b, h, q, k: s + square[k, q], [square]),
        "by head": (lambda s, b, h, q, k: s + by_head[h, q, k], [by_head]),
        "by batch and head": (lambda s, b, h, q, k: s + by_batch[b, h, q, k], [by_batch]),
        "a factor": (lambda s, b, h, q, k: s * gate[q], [gate]),
        "a clamped window": (lambda s, b, h, q, k: s + window[torch.clamp(q - k + 8, 0, 16)], [window]),
        "by key": (lambda s, b, h, q, k: s + column[k], [column]),
        "by a constant": (lambda s, b, h, q, k: s + weird[b, h, 2, q], [weird]),
        "through an index": (lambda s, b, h, q, k: s + column[order[q]], [column]),
        "a gate by head": (lambda s, b, h, q, k: s * torch.sigmoid(heads[h]), [heads]),
        "two tables": (lambda s, b, h, q, k: s + square[q, k] + other[q, k], [square, other]),
        "one table twice": (lambda s, b, h, q, k: s + column[q] + column[k], [column]),
        "a number": (lambda s, b, h, q, k: s * single, [single]),
        "a number and a table": (lambda s, b, h, q, k: s * single + heads[h] * column[k], [single, heads, column]),
    }


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", learnable())
def test_learned_tensors(name, masked):
    score, captures = learnable()[name]
    agree(score, (lambda b, h, q, k: q >= k) if masked else None, tensors(B, H, S), captures)


@pytest.mark.full
@pytest.mark.parametrize("q_len", [37, 61])
@pytest.mark.parametrize("name", learnable())
def test_learned_tensors_where_no_block_divides_the_length(name, q_len):
    score, captures = learnable()[name]
    agree(score, lambda b, h, q, k: q >= k, tensors(B, H, q_len), captures)


def test_only_the_bias_learns():
    line = torch.randn(2 * S, requires_grad=True)
    q, k, v = tensors(dtype=torch.float32)
    flex.flex_attention(q, k, v, lambda s, b, h, i, j: s + line[i - j + S]).sum().backward()
    assert line.grad is not None
    assert line.grad.abs().sum() > 0


def test_a_half_precision_bias_has_a_half_precision_gradient():
    heads = torch.randn(H, dtype=torch.bfloat16, requires_grad=True)
    q, k, v = tensors(dtype=torch.bfloat16)
    flex.flex_attention(q, k, v, lambda s, b, h, i, j: s * heads[h]).sum().backward()
    assert heads.grad is not None
    assert heads.grad.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relative", "silu", "by query"])
def test_gradcheck(name):
    score, _ = functions()[name]
    q, k, v = (t.requires_grad_() for t in tensors(1, 2, 7, 3))
    torch.autograd.gradcheck(lambda *t: flex.flex_attention(*t, score), (q, k, v))

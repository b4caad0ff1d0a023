"""What PyTorch promises of its fastest engine, FLASH, holds here, with gradients of captured tensors too."""

from __future__ import annotations

import pytest
import torch

from attncc import flex
from tests.flex.mods import causal, causal_score, rel_bias, squared, times_two
from tests.flex.oracle import agree, close, dense, tensors

B, H, S = 2, 4, 65
D = torch.float64


def learned(*shape):
    return torch.randn(*shape, dtype=D, requires_grad=True)


def scores():
    """Each score function of the list with the tensors that it learns."""
    slopes, places, heads, batches, both = learned(H), learned(S), learned(H), learned(B), learned(B, H)
    wide = learned(2 * H)
    other = [learned(S) for _ in range(5)]
    scale = torch.tensor(0.7, dtype=D)

    def many(s, b, h, i, j):
        for table in other:
            s = s + table[i] * table[j]
        return s

    return {
        "twice": (times_two, []),
        "squared": (squared, []),
        "causal": (causal_score, []),
        "relative bias": (rel_bias, []),
        "a number": (lambda s, b, h, i, j: s * scale, []),
        "soft cap": (lambda s, b, h, i, j: 20 * torch.tanh(s / 20), []),
        "an offset for each head": (lambda s, b, h, i, j: s + h, []),
        "decay": (lambda s, b, h, i, j: s - 0.1 * (i - j).abs(), []),
        "slopes": (lambda s, b, h, i, j: s + (j - i) * slopes[h], [slopes]),
        "a table of places": (lambda s, b, h, i, j: s + places[j], [places]),
        "a scale for each head": (lambda s, b, h, i, j: s * heads[h], [heads]),
        "a bias for each batch": (lambda s, b, h, i, j: s + batches[b], [batches]),
        "a bias for each batch and head": (lambda s, b, h, i, j: s * both[b, h], [both]),
        "two tables": (lambda s, b, h, i, j: s * heads[h] + places[j], [heads, places]),
        "every second": (lambda s, b, h, i, j: s + wide[::2][h], [wide]),
        "many tables": (many, other),
    }


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's eager path, of a learned view
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", scores())
def test_scores(name, masked):
    score, captures = scores()[name]
    # PyTorch multiplies an int with a Python number in float32
    allowed = 2e-6 if name == "decay" else None
    agree(score, causal if masked else None, tensors(B, H, S), captures, tolerance=allowed)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("name", ["soft cap", "slopes", "a scale for each head", "a table of places"])
def test_scores_of_grouped_heads(name, kv_heads):
    score, captures = scores()[name]
    agree(score, causal, tensors(B, H, S, kv_heads=kv_heads), captures)


@pytest.mark.parametrize(("q_len", "kv_len"), [(127, 127), (127, 95), (3, 799), (799, 3), (113, 203)])
def test_lengths(q_len, kv_len):
    agree(squared, causal, tensors(1, 2, q_len, kv_len=kv_len))


def masks():
    owner, group = torch.arange(S) // 12, torch.arange(S) % 3
    offset, table = torch.tensor(5), torch.arange(2 * S).view(2, S) // 20
    return {
        "a number": lambda b, h, i, j: i + offset >= j,
        "documents": lambda b, h, i, j: owner[i] == owner[j],
        "a view": lambda b, h, i, j: table[1][i] == table[1][j],
        "two tables": lambda b, h, i, j: (owner[i] == owner[j]) | (group[i] == group[j]),
        "one table twice": lambda b, h, i, j: (owner[i] >= owner[j]) & (owner[j] + 2 > owner[i]),
        "by head": lambda b, h, i, j: (i - j).abs() <= 4 * h + 1,
        "by batch": lambda b, h, i, j: j < 30 + 20 * b,
    }


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", masks())
def test_masks(name, kv_heads):
    agree(times_two, masks()[name], tensors(B, H, S, kv_heads=kv_heads), batch=B, heads=H, block=32)


def test_views_of_one_tensor_and_expanded_ones():
    packed = torch.randn(B, S, 3, H, 8, dtype=D, requires_grad=True)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    one = torch.randn(B, 1, S, 8, dtype=D, requires_grad=True)
    shared = one.expand(-1, H, -1, -1)  # a stride of 0
    results = [
        function(q, k + shared, v) for function in (flex.flex_attention, lambda *qkv: dense(None, None, *qkv)[0])
    ]
    grads = [torch.autograd.grad(out.sin().sum(), (packed, one), retain_graph=True) for out in results]
    for found, wanted in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-11)
    leaves = [one, packed]
    outs = [flex.flex_attention(q, shared, shared), dense(None, None, q, shared, shared)[0]]
    for found, wanted in zip(*(torch.autograd.grad(out.sin().sum(), leaves) for out in outs), strict=True):
        close("gradient", found, wanted, 1e-11)


def test_gradients_are_the_same_each_time():
    score, captures = scores()["two tables"]
    q, k, v = (t.requires_grad_() for t in tensors(B, H, S))
    seen = []
    for _ in range(2):
        out = flex.flex_attention(q, k, v, score, flex.create_block_mask(causal, None, None, S, S, "cpu"))
        seen.append(torch.autograd.grad(out.sin().sum(), (q, k, v, *captures)))
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))

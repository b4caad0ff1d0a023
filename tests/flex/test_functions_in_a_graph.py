"""Calls with Python functions stay in the graph of torch.compile, forward and backward, whatever they capture."""

from __future__ import annotations

import functools
import os

import pytest
import torch

import attncc
from attncc import flex
from attncc.variants.causal import causal_bottom_right
from attncc.variants.windows import sliding_window
from tests.flex.mods import causal
from tests.flex.oracle import close, tensors

# torch.compile itself warns of many things.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

GATE = torch.rand(4, dtype=torch.float64, requires_grad=True)
TABLE = torch.randn(200, dtype=torch.float64, requires_grad=True)
LSE = flex.AuxRequest(lse=True, max_scores=True)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counted:
    """A back end of torch.compile that counts the graphs it is given."""

    def __init__(self, name="aot_eager"):
        self.compile = torch._dynamo.lookup_backend(name)
        self.graphs = 0

    def __call__(self, graph, examples):
        self.graphs += 1
        return self.compile(graph, examples)


def of_a_global(score, b, h, q, kv):
    return score * GATE[h] + TABLE[q - kv + 100]


class Bias(torch.nn.Module):
    """A score function that is a module."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Parameter(torch.randn(200, dtype=torch.float64))

    def forward(self, score, b, h, q, kv):
        return score + self.line[q - kv + 100]


class Window:
    """A mask function that is an object."""

    def __init__(self, size):
        self.size = size

    def __call__(self, b, h, q, kv):
        return (q >= kv) & (q - kv < self.size)


def with_keyword(score, b, h, q, kv, *, table):
    return score + table[h]


VARIANT = attncc.compile(of_a_global, causal)
BIAS = Bias()
OWNER = torch.arange(64) // 10
FIRST = torch.arange(64, dtype=torch.float64).view(32, 2)


def by_flex(q, k, v, gate, size):
    mask = flex.create_block_mask(lambda b, h, i, j: i - j < size, None, None, q.shape[2], k.shape[2], "cpu")
    both = flex.and_masks(causal, mask.mask_mod)
    mask = flex.create_block_mask(both, None, None, q.shape[2], k.shape[2], "cpu")
    return flex.flex_attention(q, k, v, lambda s, b, h, i, j: s - gate[h] * (i - j), mask)


def by_flex_with_more(q, k, v, gate, size):
    out, aux = flex.flex_attention(q, k, v, lambda s, b, h, i, j: s - gate[h] * (i - j), return_aux=LSE)
    return out + aux.lse[..., None] + aux.max_scores[..., None]


def computed(q, k, v, gate, size):
    table = (q.sum(-1) * 0.1).mean((0, 1))  # made of what the graph computes

    def score(s, b, h, i, j):
        return s + (gate * 2)[h] * table[i] + table[j] + torch.linalg.norm(FIRST[(i - j) % 32])

    return attncc.attention(q, k, v, score, Window(size))


def partly_indexed(q, k, v, gate, size):
    square = gate[:, None] * torch.linspace(0, 1, 64, dtype=q.dtype)
    rows = square[None].expand(2, -1, -1)
    return attncc.attention(q, k, v, lambda s, b, h, i, j: s + rows[b][h, i] + square[h, :][j] + rows[b, ..., j][h])


CASES = {
    "a variant of globals": lambda q, k, v, gate, size: VARIANT(q, k, v),
    "a variant with its lse": lambda q, k, v, gate, size: VARIANT(q, k, v, return_lse=True)[1],
    "a closure": lambda q, k, v, gate, size: attncc.attention(q, k, v, lambda s, b, h, i, j: s * gate[h], causal),
    "a module": lambda q, k, v, gate, size: attncc.attention(q, k, v, BIAS, causal),
    "an object": lambda q, k, v, gate, size: attncc.attention(q, k, v, mask_mod=Window(7)),
    "a partial": lambda q, k, v, gate, size: attncc.attention(q, k, v, functools.partial(with_keyword, table=gate)),
    "a mask of the gallery": lambda q, k, v, gate, size: attncc.attention(q, k, v, mask_mod=WINDOWED),
    "documents": lambda q, k, v, gate, size: attncc.attention(
        q, k, v, mask_mod=lambda b, h, i, j: (OWNER[i] == OWNER[j]) & causal(b, h, i, j)
    ),
    "fewer queries": lambda q, k, v, gate, size: attncc.attention(q[:, :, 2:], k, v, mask_mod=causal_bottom_right),
    "no functions": lambda q, k, v, gate, size: attncc.attention(q, k, v),
    "numbers alone": lambda q, k, v, gate, size: attncc.attention(q, k, v, lambda s, b, h, i, j: 1.5, causal),
    "flex": by_flex,
    "flex with more": by_flex_with_more,
    "what the graph computes": computed,
    "indexed in parts": partly_indexed,
}
WINDOWED = causal & sliding_window(5)


def agree(function, compiled, length, size=9):
    packed = torch.randn(2, length, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(4, dtype=torch.float64, requires_grad=True)
    leaves = [packed, gate, GATE, TABLE, *BIAS.parameters()]
    results = []
    for each in (function, compiled):
        q, k, v = packed.permute(2, 0, 3, 1, 4)  # views of one tensor, as models have them
        out = each(q, k, v, gate, size)
        grads = torch.autograd.grad(out.sin().sum(), leaves, allow_unused=True)
        results.append((out.detach(), *(g for g in grads if g is not None)))
    assert len(results[0]) == len(results[1])
    for wanted, found in zip(*results, strict=True):
        close("result", found, wanted, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_one_graph_serves_every_length(name):
    back_end = Counted()
    compiled = torch.compile(CASES[name], fullgraph=True, dynamic=True, backend=back_end)
    for length in (19, 33, 12, 64):
        agree(CASES[name], compiled, length)
    assert back_end.graphs == 1


@pytest.mark.parametrize("name", ["a closure", "flex", "what the graph computes"])
def test_the_graph_runs_as_it_is(name):
    compiled = torch.compile(CASES[name], fullgraph=True, backend="eager")
    for length in (19, 33, 12):
        agree(CASES[name], compiled, length)


def test_a_number_that_changes_is_a_parameter():
    back_end = Counted()
    compiled = torch.compile(by_flex, fullgraph=True, backend=back_end)
    for size in (9, 10, 5, 7, 12):
        agree(by_flex, compiled, 19, size)
    assert back_end.graphs == 2  # as torch.compile does: the second value tells it that the number changes


def test_a_changed_float_or_global_is_seen():
    factor = 2.0

    def model(q, k, v):
        return attncc.attention(q, k, v, lambda s, b, h, i, j: s * factor, Window(size))

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    qkv = tensors(q_len=17)
    for factor, size in ((2.0, 3), (0.5, 3), (0.25, 4), (0.75, 40)):  # noqa: B007  # the model reads them
        close("out", compiled(*qkv), model(*qkv), 1e-12)


def test_a_tensor_changed_in_place_is_read_again():
    table = torch.randn(64, dtype=torch.float64)

    def model(q, k, v):
        return attncc.attention(q, k, v, lambda s, b, h, i, j: s + table[j])

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    qkv = tensors()
    for _ in range(2):
        close("out", compiled(*qkv), model(*qkv), 1e-12)
        table.mul_(3)


def test_under_autocast():
    def model(q, k, v):
        return attncc.attention(q, k, v, lambda s, b, h, i, j: s + GATE[h], causal)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    qkv = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = model(*qkv), compiled(*qkv)
    assert found.dtype == wanted.dtype == torch.bfloat16
    assert torch.equal(found, wanted)


def test_functional_gradients_are_one_graph():
    def loss(gate, q, k, v):
        return attncc.attention(q, k, v, lambda s, b, h, i, j: s * gate[h], causal).sin().sum()

    gate, *qkv = torch.rand(4, dtype=torch.float64), *tensors()
    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    close("gradient", compiled(gate, *qkv), torch.func.grad(loss)(gate, *qkv), 1e-12)


def test_block_masks_of_lists_are_obeyed_in_the_graph():
    made = flex.create_block_mask(causal, None, None, 64, 64, "cpu", 16).to_torch()

    def model(q, k, v, mask):
        return flex.flex_attention(q, k, v, block_mask=mask)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    qkv = tensors()
    close("out", compiled(*qkv, made), model(*qkv, made), 1e-12)


def of_lists(q, k, v):
    counts, columns = torch.tensor([[[1, 2]]], dtype=torch.int32), torch.tensor([[[[0, 0], [0, 1]]]], dtype=torch.int32)
    mask = flex.BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=32, mask_mod=causal)
    return flex.flex_attention(q, k, v, block_mask=mask)


MADE = {
    "of lists": of_lists,
    "of the gallery": lambda q, k, v: attncc.attention(q, k, v, mask_mod=sliding_window(5)),
    "joined": lambda q, k, v: attncc.attention(q, k, v, mask_mod=flex.or_masks(sliding_window(5), WINDOWED & causal)),
}


@pytest.mark.parametrize("name", MADE)
def test_masks_may_be_made_in_the_graph(name):
    qkv = tensors()
    compiled = torch.compile(MADE[name], fullgraph=True, backend="aot_eager")
    close("out", compiled(*qkv), MADE[name](*qkv), 1e-12)


def test_a_mask_that_is_none_says_so():
    def model(q, k, v):
        return attncc.attention(q, k, v, mask_mod=lambda b, h, i, j: i - j)

    with pytest.raises(Exception, match="a mask must be a bool, but this is an int"):
        torch.compile(model, fullgraph=True, backend="aot_eager")(*tensors())


def test_what_torch_cannot_follow_breaks_the_graph_and_stays_right():
    def counted(s, b, h, q, kv):
        os.getpid()
        return s * GATE[h]

    def model(q, k, v):
        return attncc.attention(q * 1, k, v, counted, causal).sin().sum()

    leaves = [*tensors(q_len=17), GATE]
    q, k, v = (t.requires_grad_() for t in leaves[:3])
    grads = [torch.autograd.grad(run(q, k, v), leaves) for run in (model, torch.compile(model, backend="aot_eager"))]
    for wanted, found in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-12)


FACTOR = 0.5


def with_a_factor(score, b, h, q, kv):
    return score * FACTOR * GATE[h] + TABLE[q - kv + 100]


def test_values_given_by_name_stay_in_the_graph(monkeypatch):
    variant, counted = attncc.compile(with_a_factor, causal), Counted()

    def model(q, k, v, gate, table):
        return variant(q, k, v, GATE=gate, TABLE=table).sin()

    compiled = torch.compile(model, fullgraph=True, backend=counted)
    for length in (19, 33, 12):
        leaves = [*tensors(q_len=length), torch.rand(4, dtype=torch.float64), torch.randn(200, dtype=torch.float64)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        grads = [torch.autograd.grad(run(*leaves).sum(), leaves) for run in (model, compiled)]
        for wanted, found in zip(*grads, strict=True):
            close("gradient", found, wanted, 1e-12)
    assert counted.graphs == 2
    for factor in (0.25, 0.75, -1.0):  # a constant of the functions, which torch.compile leaves open at last
        monkeypatch.setitem(globals(), "FACTOR", factor)
        close("out", compiled(*leaves), model(*leaves), 1e-12)


def test_parameters_given_by_name_stay_in_the_graph_and_open():
    counted = Counted()

    def made(size):
        return lambda b, h, i, j: (i >= j) & (i - j < size)

    variant = attncc.compile(None, made(5))
    compiled = torch.compile(lambda q, k, v, size: variant(q, k, v, size=size), fullgraph=True, backend=counted)
    for size in (3, 4, 6, 9):
        qkv = tensors()
        close("out", compiled(*qkv, size), variant(*qkv, size=size), 1e-12)
    assert counted.graphs == 2
    bound, qkv = variant.bind(size=4), tensors()
    close("out", torch.compile(lambda *own: bound(*own), fullgraph=True, backend="eager")(*qkv), bound(*qkv), 1e-12)


def test_some_values_given_by_name_break_the_graph_and_stay_right():
    gate = torch.rand(4, dtype=torch.float64)
    variant = attncc.compile(of_a_global, causal)

    def model(q, k, v):
        return variant(q, k, v, GATE=gate)

    qkv = tensors()
    close("out", torch.compile(model, backend="aot_eager")(*qkv), model(*qkv), 1e-12)

"""A transformer block with attncc inside, under torch.compile, torch.export, checkpointing, autocast and vmap."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import attncc
from attncc import flex
from attncc.errors import UnsupportedError
from tests.flex.mods import causal
from tests.flex.oracle import close, tensors

# torch.compile itself warns of many things.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WINDOW = """attn 1
attention window(window: int = 7):
  capture slopes: float[heads]
  score = score - slopes[h] * (q_idx - kv_idx)
  mask = q_idx >= kv_idx and q_idx - kv_idx < window
"""


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(torch.nn.Module):
    """Attention with projections and a residual."""

    def __init__(self, attend):
        super().__init__()
        self.project, self.join = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.slopes = torch.nn.Parameter(torch.rand(4))
        self.attend = attend

    def forward(self, x):
        q, k, v = self.project(x).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        return x + self.join(self.attend(q, k, v, self.slopes).transpose(1, 2).flatten(2))


def by_text(q, k, v, slopes):
    return VARIANT(q, k, v, slopes=slopes)


def by_sdpa(q, k, v, slopes):
    return attncc.sdpa(q, k, v, is_causal=True) * slopes[None, :, None, None]


def by_functions(q, k, v, slopes):
    mask = flex.create_block_mask(causal, None, None, q.shape[2], k.shape[2], "cpu")
    return flex.flex_attention(q, k, v, lambda s, b, h, i, j: s - slopes[h] * (i - j), mask)


VARIANT = attncc.loads(WINDOW)
WAYS = {"text": by_text, "sdpa": by_sdpa, "functions": by_functions}


def same_gradients(block, other, x):
    """Two ways to run a block give the same output and the same gradients."""
    results = []
    for run in (block, other):
        out = run(x)
        results.append((out.detach(), *torch.autograd.grad(out.sin().sum(), list(block.parameters()))))
    for wanted, found in zip(*results, strict=True):
        close("gradient", found, wanted, 2e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", WAYS)
def test_a_block_is_one_graph(name, backend):
    block = Block(WAYS[name])
    same_gradients(block, torch.compile(block, fullgraph=True, backend=backend), torch.randn(2, 19, 32))


@pytest.mark.parametrize("name", WAYS)
def test_one_graph_serves_every_length(name):
    block = Block(WAYS[name])
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    same_gradients(block, compiled, torch.randn(2, 19, 32))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (20, 33, 64, 7):
            same_gradients(block, compiled, torch.randn(2, length, 32))


def test_a_checkpointed_block_is_one_graph():
    block = Block(by_functions)
    compiled = torch.compile(lambda x: checkpoint(block, x, use_reentrant=False), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 19, 32, requires_grad=True)
    grads = [torch.autograd.grad(run(x).sin().sum(), (x, block.slopes)) for run in (block, compiled)]
    for wanted, found in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-6)


LOAD = """
import sys, torch, attncc.api
program = torch.export.load(sys.argv[1])
x, wanted = torch.load(sys.argv[2])
print(float((program.module()(x) - wanted).abs().max()))
print(any("attncc" in str(node.target) for node in program.graph.nodes))
"""


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_an_exported_block_runs_at_other_lengths_in_a_fresh_process(name, strict, tmp_path):
    block, x = Block(WAYS[name]).eval(), torch.randn(2, 31, 32)
    with torch.no_grad():
        shapes = ({1: torch.export.Dim("length", min=2, max=4096)},)
        program = torch.export.export(block, (torch.randn(2, 19, 32),), dynamic_shapes=shapes, strict=strict)
        torch.export.save(program, tmp_path / "block.pt2")
        torch.save((x, block(x)), tmp_path / "expected.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOAD, tmp_path / "block.pt2", tmp_path / "expected.pt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    difference, kept = done.stdout.split()
    assert float(difference) < 1e-6
    assert kept == "True"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_a_checkpointed_block_has_the_same_gradients(name, reentrant):
    block = Block(WAYS[name])
    x = torch.randn(2, 19, 32, requires_grad=True)
    grads = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
        block.zero_grad()
        run(x).sin().sum().backward()
        grads.append([p.grad.clone() for p in block.parameters()])
    for wanted, found in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-6)


@pytest.mark.parametrize("name", WAYS)
def test_autocast_runs_in_its_dtype(name):
    block, x = Block(WAYS[name]), torch.randn(2, 19, 32)
    seen = []
    inner = block.attend
    block.attend = lambda *given: seen.append(inner(*given).dtype) or inner(*given)
    wanted = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    assert seen[-1] in (torch.bfloat16, torch.float32)
    close("out", found.float(), wanted, 0.05)


def test_vmap_is_refused_in_a_sentence():
    q, k, v = (t[None].expand(3, -1, -1, -1, -1) for t in tensors(1, 2, 8))
    with pytest.raises(UnsupportedError, match="fold the mapped dimension into it"):
        torch.vmap(attncc.sdpa)(q, k, v)

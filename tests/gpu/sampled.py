"""Causal windows over tensors too large for a dense reference, checked at sampled rows and columns.

Only a window of keys matters to a row, and only a window of rows to a key: each sample is computed from those alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.share import SEED

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """q, k and v [1, heads, length, dim], the gradient of out, and how many keys a query sees, itself included."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    window: int

    @property
    def length(self) -> int:
        return self.q.shape[2]


def make(
    heads: int, length: int, dim: int, window: int, dtype: torch.dtype, device: str, *, tokens_first: bool
) -> Problem:
    """Random numbers; `tokens_first` lays heads beside one another for each token."""
    numbers = torch.Generator(device=device).manual_seed(SEED)
    shape = (1, length, heads, dim) if tokens_first else (1, heads, length, dim)
    made = [torch.randn(shape, generator=numbers, dtype=dtype, device=device) for _ in range(4)]
    q, k, v, grad_out = [t.transpose(1, 2) if tokens_first else t for t in made]
    return Problem(q, k, v, grad_out, window)


def places(problem: Problem, count: int) -> list[tuple[int, int]]:
    """Heads and positions: seeded ones, and the ends of the first and the last head."""
    numbers = random.Random(SEED)
    heads, last = problem.q.shape[1], problem.length - 1
    ends = [(0, 0), (0, last), (heads - 1, 0), (heads - 1, last)]
    return ends + [(numbers.randrange(heads), numbers.randrange(last + 1)) for _ in range(count - len(ends))]


def rows_of(problem: Problem, place: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """out and the gradients of q, k and v that a row and its key need, at one place: the row, and the column.

    The gradient of a key comes from the rows that see it, whose out needs the keys before it, too.
    """
    head, at = place
    rows = range(at, min(at + problem.window, problem.length))
    first = max(0, at - problem.window + 1)
    q = problem.q[0, head, rows.start : rows.stop].to(dtype).detach().requires_grad_()
    k, v = (t[0, head, first : rows.stop].to(dtype).detach().requires_grad_() for t in (problem.k, problem.v))
    q_idx = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
    kv_idx = torch.arange(first, rows.stop, device=q.device)
    seen = (q_idx >= kv_idx) & (q_idx - kv_idx < problem.window)
    scores = (q @ k.mT * (1 / math.sqrt(q.shape[1]))).masked_fill(~seen, -math.inf)
    out = torch.softmax(scores, -1) @ v
    grad_out = problem.grad_out[0, head, rows.start : rows.stop].to(dtype)
    grad_q, grad_k, grad_v = torch.autograd.grad(out, (q, k, v), grad_out)
    return [out[0].detach(), grad_q[0], grad_k[at - first], grad_v[at - first]]


def faults(problem: Problem, attend: Attend, factors: Sequence[float], count: int) -> list[str]:
    """The sampled results whose error is beyond a factor of eager PyTorch's own, by result."""
    held = [t.detach().requires_grad_() for t in (problem.q, problem.k, problem.v)]
    out = attend(*held)
    found = [out.detach(), *torch.autograd.grad(out, held, problem.grad_out)]
    wrong = []
    dtype = problem.q.dtype
    for place in places(problem, count):
        exact, usual = rows_of(problem, place, torch.float64), rows_of(problem, place, dtype)
        for name, factor, a, b, c in zip(("out", "dq", "dk", "dv"), factors, found, exact, usual, strict=True):
            error = float((a[0, *place].double() - b).abs().max())
            bar = factor * float((c.double() - b).abs().max())
            bar += torch.finfo(dtype).eps * max(1.0, float(b.abs().max()))
            if not error <= bar:
                wrong.append(f"{name} at {place}: off by {error:.2e}, {bar:.2e} allowed")
    return wrong

"""The error of the GPU's approximate `tanh` leaves results within the bars that kernels on a GPU must meet.

Attention is computed here as kernels compute it: scores in float32, weights and gradients of scores rounded to the
dtype of the tensors before their products; with a `tanh` that is wrong by the whole 2 ** -11 at every pair.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attncc.ir import Op
from attncc.reference import dense as dense_module
from attncc.reference import reference_scores
from tests.gpu.test_triton_gallery import GRADIENT_FACTOR, OUT_FACTOR, eager, off, size
from tests.runtime.triton.cases import Case, dense, gallery_case, outcome

CAPPED = ("soft_cap", "capped_alibi", "capped_temperature", "windowed_soft_cap")
ERROR = 2.0**-11


class _Rough(torch.autograd.Function):
    """A tanh off by ERROR, relative, whose derivative takes the same wrong value, as kernels do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        numbers = torch.Generator().manual_seed(x.numel())
        t = torch.tanh(x) * (1 + ERROR * (torch.randint(2, x.shape, generator=numbers) * 2 - 1))
        ctx.save_for_backward(t)
        return t

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        return grads[0] * (1 - t * t)


class _Rounded(torch.autograd.Function):
    """A factor of a product in a shorter dtype, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype).to(grads[0].dtype), None


def kernel(case: Case, dtype: torch.dtype):
    """Attention with the roundings of a kernel."""

    def call(q: Tensor, k: Tensor, v: Tensor, captures: list[Tensor]) -> tuple[Tensor, Tensor]:
        named = {p.name: value for p, value in zip(case.spec.parameters, case.parameters, strict=True)}
        scores = reference_scores(case.spec, q, k, captures, named, check_bounds=False)
        lse = torch.logsumexp(scores, -1)
        largest = scores.amax(-1, keepdim=True).detach().nan_to_num(neginf=0.0)
        weights = _Rounded.apply((scores - largest).exp(), dtype)
        sums = (lse - largest[..., 0]).exp()[..., None]
        return (weights @ v.float().repeat_interleave(q.shape[1] // v.shape[1], 1) / sums).to(dtype), lse

    return call


def excesses(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far out, lse and gradients are off with such a `tanh`, as shares of what they may be off on a GPU."""
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    usual = outcome(eager(case, dtype), *case.tensors(dtype))
    exact = outcome(kernel(case, dtype), *case.tensors(dtype))
    monkeypatch.setitem(dense_module.TORCH, Op.TANH, _Rough.apply)
    rough = outcome(kernel(case, dtype), *case.tensors(dtype))
    assert off(rough[1], exact[1]) > 1e-5  # lse shows that it is another tanh
    factors = (OUT_FACTOR, OUT_FACTOR, *(GRADIENT_FACTOR,) * (len(wanted) - 2))
    bars = [f * off(c, b) + torch.finfo(dtype).eps * size(b) for f, b, c in zip(factors, wanted, usual, strict=True)]
    return [off(a, b) / bar for a, b, bar in zip(rough, wanted, bars, strict=True)]


def with_scores(case: Case, times: float) -> Case:
    """The case with larger queries."""
    q, k, v = case.own
    return replace(case, own=(q * times, k, v))


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", CAPPED)
def test_a_tanh_that_is_off_by_its_whole_error_stays_within_the_bars(name, times, monkeypatch):
    case = with_scores(gallery_case(name, 257, dim=64, value_dim=64), times)
    assert max(excesses(case, torch.bfloat16, monkeypatch)) < 0.5


def test_in_float16_it_would_not(monkeypatch):
    case = with_scores(gallery_case("soft_cap", 500, dim=64, value_dim=64), 4)
    assert max(excesses(case, torch.float16, monkeypatch)) > 1

"""Every variant of the gallery on a GPU: forward and all gradients within a factor of eager PyTorch's own error."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from attncc.variants.gallery import gallery
from tests.runtime.triton.cases import Case, dense, errors, gallery_case, outcome, triton, within_nan

pytestmark = pytest.mark.gpu
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
#: How much larger than eager PyTorch's an error may be, for results and for gradients.
OUT_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
LENGTHS = (1, 63, 100, 257, 1000)
GROUPS = (1, 4, 7)
#: A dense float64 reference at this length takes some 6 GiB for two heads; tests that run beside this one wait for it.
LONG = 4096
WAIT = "attncc-gpu-dense.lock"


def eager(case: Case, dtype: torch.dtype):
    """Attention as PyTorch computes it in a dtype, from matrix products in that dtype and the reference's scores."""
    exact = dense(case)
    if dtype == torch.float32:
        return exact

    def call(q: Tensor, k: Tensor, v: Tensor, captures: list[Tensor]) -> tuple[Tensor, Tensor]:
        from attncc.reference import reference_scores

        named = {p.name: value for p, value in zip(case.spec.parameters, case.parameters, strict=True)}
        scores = reference_scores(case.spec, q, k, captures, named, check_bounds=False).to(dtype)
        lse = torch.logsumexp(scores.float(), -1)
        weights = torch.softmax(scores, -1).nan_to_num()
        return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], 1), lse

    return call


def off(found: Tensor | None, wanted: Tensor | None) -> float:
    """The largest absolute difference."""
    if found is None or wanted is None or not found.numel():
        return 0.0
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    return float(torch.where(same, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf).max())


def size(wanted: Tensor | None) -> float:
    """The largest finite magnitude, at least 1."""
    if wanted is None or not wanted.numel():
        return 1.0
    return max(1.0, float(torch.where(wanted.isfinite(), wanted.double().abs(), 0.0).max()))


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """No other process of this machine is in this block, and what it held of the GPU's memory is given back."""
    with FileLock(Path(tempfile.gettempdir()) / WAIT):
        yield
        torch.cuda.empty_cache()


def faults(case: Case, dtype: torch.dtype, *, deterministic: bool = False) -> list[str]:
    """The results whose error is beyond the bar."""
    found = outcome(triton(case, deterministic=deterministic), *case.tensors(dtype, "cuda"))
    with one_at_a_time() if case.own[0].shape[2] >= LONG else nullcontext():
        wanted = outcome(dense(case), *case.tensors(torch.float64, "cuda"))
        usual = outcome(eager(case, dtype), *case.tensors(dtype, "cuda"))
    wrong = []
    for i, (a, b, c) in enumerate(zip(found, wanted, usual, strict=True)):
        factor = OUT_FACTOR if i < 2 else GRADIENT_FACTOR
        theirs = off(c, b)
        bar = factor * (theirs if math.isfinite(theirs) else 0.0) + torch.finfo(dtype).eps * size(b)
        if dtype == torch.float32:
            bar = max(bar, (1e-5 if i < 2 else 5e-5) * size(b))
        if not off(a, b) <= bar:
            wrong.append(f"result {i}: off by {off(a, b):.2e}, {bar:.2e} allowed")
    return wrong


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", gallery())
def test_variant_is_as_exact_as_eager_torch(name, dtype):
    wrong = []
    for turn, length in enumerate(LENGTHS):
        group = GROUPS[turn % len(GROUPS)]
        heads, dim = (7 if group == 7 else 4), (64, 128, 80)[turn % 3]
        case = gallery_case(name, length, heads=heads, group=group, dim=dim, value_dim=dim)
        found = faults(case, DTYPES[dtype], deterministic=turn in (1, 3))
        wrong += [f"length {length}: {each}" for each in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", gallery())
def test_variant_is_as_exact_as_eager_torch_at_4096(name, dtype):
    case = gallery_case(name, LONG, batch=1, heads=2, group=1, dim=64, value_dim=64)
    wrong = faults(case, DTYPES[dtype])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", gallery())
def test_what_lies_around_tensors_is_never_read(name):
    case = gallery_case(name, 100, dim=80, value_dim=64)
    own, captures = case.tensors(torch.bfloat16, "cuda")
    plain = outcome(triton(case), own, captures)
    for units in (16, 3):  # strides and addresses that are multiples of 16, and others, which have other kernels
        within = outcome(triton(case), *([within_nan(t, units) for t in each] for each in (own, captures)))
        assert max(errors(within, plain)) <= 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["alibi", "relative_bias", "documents", "t5_bias"])
def test_two_runs_give_the_same_bytes(name, dtype):
    case = gallery_case(name, 257, dim=64, value_dim=64)
    runs = [outcome(triton(case, deterministic=True), *case.tensors(DTYPES[dtype], "cuda")) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert (a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())

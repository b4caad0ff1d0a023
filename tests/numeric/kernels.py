"""Running specs through the torch back end in tests, and comparing with the reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attncc import pipeline
from attncc.ir import AttentionSpec
from attncc.runtime import op
from tests.strategies import Outcome, Problem, measure

op.install(pipeline.lower_text)


def attend(
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: tuple[Tensor, ...] = (),
    parameters: tuple[int, ...] | None = None,
    *,
    scale: float | None = None,
    tile_q: int = 0,
    tile_kv: int = 0,
    check_bounds: bool = True,
) -> tuple[Tensor, Tensor]:
    """Out and lse of the torch back end; parameters as in the spec where none are given."""
    values = tuple(p.value for p in spec.parameters) if parameters is None else parameters
    return op.attend(
        pipeline.remember(spec),
        q,
        k,
        v,
        captures,
        values,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
        tile_q=tile_q,
        tile_kv=tile_kv,
        check_bounds=check_bounds,
    )


def measure_kernel(
    problem: Problem, dtype: torch.dtype = torch.float64, *, tile_q: int = 0, tile_kv: int = 0
) -> Outcome:
    """What the torch back end makes of a problem: out, lse and gradients."""

    def call(q: Tensor, k: Tensor, v: Tensor, captures: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return attend(problem.spec, q, k, v, captures, problem.parameters, tile_q=tile_q, tile_kv=tile_kv)

    return measure(call, problem.values(dtype, grad=True))


def difference(found: Tensor | None, wanted: Tensor | None) -> float:
    """The largest difference relative to the largest wanted number, at least 1; a missing gradient counts as 0."""
    if found is None or wanted is None:
        found = torch.zeros_like(wanted) if found is None and wanted is not None else found
        wanted = torch.zeros_like(found) if wanted is None and found is not None else wanted
        if found is None or wanted is None:
            return 0.0
    found, wanted = found.detach().double(), wanted.detach().double()
    assert found.shape == wanted.shape
    if not found.numel():
        return 0.0
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    largest = torch.where(wanted.isfinite(), wanted.abs(), 0.0).max().clamp(min=1.0)
    return float(torch.where(same, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf).max() / largest)


def worst(found: Outcome, wanted: Outcome) -> float:
    """The largest difference of two outcomes."""
    pairs = [(found.out, wanted.out), (found.lse, wanted.lse), *zip(found.grads, wanted.grads, strict=True)]
    return max(difference(a, b) for a, b in pairs)

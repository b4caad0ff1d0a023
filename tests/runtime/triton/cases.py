"""Variants on the Triton back end in tests: the gallery's problems, and what a call makes of them beside the reference.

Results that a kernel should write are NaN beforehand, so that a place that it leaves out is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attncc import pipeline
from attncc.frontend import trace_functions
from attncc.ir import AttentionSpec
from attncc.reference import reference
from attncc.runtime import op
from attncc.variants.gallery import gallery

op.install(pipeline.lower_text)

Attend = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of the gallery with tensors: q, k, v and what it captures, in float64 on the CPU."""

    spec: AttentionSpec
    own: tuple[Tensor, Tensor, Tensor]
    captures: tuple[Tensor, ...]
    parameters: tuple[int, ...]

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> tuple[list[Tensor], list[Tensor]]:
        """q, k, v in a dtype, and captures in float32 or float64; floats ask for gradients."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        own = [t.to(device, dtype, copy=True).requires_grad_() for t in self.own]
        captures = [
            t.to(device, wide, copy=True).requires_grad_() if t.is_floating_point() else t.to(device)
            for t in self.captures
        ]
        return own, captures


def gallery_case(
    name: str, length: int, *, batch: int = 2, heads: int = 4, group: int = 4, dim: int = 16, value_dim: int = 16
) -> Case:
    """A variant at a length; q, k, v hold numbers that bfloat16 holds too, and captures numbers that float32 holds."""
    entry = gallery()[name]
    sizes = entry.sizes(length, batch, heads)
    traced = trace_functions(*entry.at(sizes), name=name)
    values = traced.read(*entry.at(sizes))
    numbers = torch.Generator().manual_seed(length)
    shapes = [(heads, sizes.q_len, dim), (heads // group, sizes.kv_len, dim), (heads // group, sizes.kv_len, value_dim)]
    own = tuple(torch.randn(batch, *shape, generator=numbers).bfloat16().double() for shape in shapes)
    captures = tuple(c.detach().double() if c.is_floating_point() else c for c in values.captures)
    return Case(traced.spec, own, captures, tuple(values.parameters))  # type: ignore[arg-type]  # three of them


def triton(
    case: Case, tiles: tuple[int, int] = (0, 0), check_bounds: bool = False, *, deterministic: bool = False
) -> Attend:
    """The call of a case by its Triton kernels."""

    def call(q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        text = pipeline.remember(case.spec)
        options = {"tile_q": tiles[0], "tile_kv": tiles[1], "check_bounds": check_bounds, "backend": "triton"}
        options |= {"deterministic": deterministic}
        scale = 1 / math.sqrt(q.shape[-1])
        with nan_filled():
            return op.attend(text, q, k, v, captures, case.parameters, scale=scale, **options)

    return call


def dense(case: Case) -> Attend:
    """The call of a case by the reference."""
    named = {p.name: value for p, value in zip(case.spec.parameters, case.parameters, strict=True)}

    def call(q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return reference(case.spec, q, k, v, captures, named, return_lse=True)

    return call


def outcome(call: Attend, own: Sequence[Tensor], captures: Sequence[Tensor]) -> list[Tensor | None]:
    """Out, lse and the gradients of a fixed loss: q, k, v, then the captures that can have one."""
    out, lse = call(*own, captures)
    loss = sum((t.double() * weights(t)).sum() for t in (out, torch.where(lse == -math.inf, 0.0, lse)))
    leaves = [t for t in (*own, *captures) if t.requires_grad]
    with nan_filled():
        return [out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True)]


def weights(tensor: Tensor) -> Tensor:
    """Numbers that weigh the elements of a result, the same for every dtype; bfloat16 holds them exactly."""
    numbers = torch.linspace(-1, 2, tensor.numel(), dtype=torch.float64, device=tensor.device)
    return (numbers * 64).round().view(tensor.shape) / 64


def within_nan(tensor: Tensor, units: int) -> Tensor:
    """The same numbers as part of a larger tensor that holds NaN, or the least int, before and behind them.

    Where `units` is 16, addresses and strides stay multiples of 16.
    """
    if not tensor.dim():
        return tensor
    *sizes, last = tensor.shape
    worst = math.nan if tensor.is_floating_point() else torch.tensor(-(2**30)).to(tensor.dtype).item()
    whole = torch.full(
        [*(size + 2 * units for size in sizes), (last // units + 2) * units], worst, dtype=tensor.dtype
    ).to(tensor.device)
    part = whole[tuple(slice(units, units + size) for size in sizes)][..., :last]
    return part.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


@contextmanager
def nan_filled() -> Iterator[None]:
    """What torch.empty makes in this block is NaN, or the least int."""
    kept = torch.empty, torch.empty_like, Tensor.new_empty, torch.empty_permuted

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: object, **options: object) -> Tensor:
            tensor = make(*args, **options)
            return tensor.fill_(math.nan if tensor.is_floating_point() else -(2**30))

        return made

    torch.empty, torch.empty_like = filled(kept[0]), filled(kept[1])
    torch.empty_permuted = filled(kept[3])
    Tensor.new_empty = filled(kept[2])  # type: ignore[method-assign,assignment]  # put back below
    try:
        yield
    finally:
        torch.empty, torch.empty_like, torch.empty_permuted = kept[0], kept[1], kept[3]
        Tensor.new_empty = kept[2]  # type: ignore[method-assign]


def error(found: Tensor | None, wanted: Tensor | None) -> float:
    """The largest difference, relative to the largest wanted number, at least 1; a missing gradient counts as 0."""
    if found is None or wanted is None:
        given = found if wanted is None else wanted
        return 0.0 if given is None else error(torch.zeros_like(given), given)
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    assert found.shape == wanted.shape
    if not found.numel():
        return 0.0
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    largest = torch.where(wanted.isfinite(), wanted.abs(), 0.0).max().clamp(min=1.0)
    return float(torch.where(same, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf).max() / largest)


def errors(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> list[float]:
    """The error of each result."""
    return [error(a, b) for a, b in zip(found, wanted, strict=True)]

"""PyTorch's eager FlexAttention beside ours: the same inputs, the same functions, forward, lse and gradients compared.

PyTorch runs uncompiled. It refuses gradients on the CPU in a check that knows nothing of its eager path, so that check
is left out; gradients of captured tensors come from the dense function below it, which autograd follows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import math_attention
from torch.nn.attention import flex_attention as theirs

from attncc import flex as ours

#: Largest difference, as a share of the largest value; PyTorch itself rounds float32 as we do.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """PyTorch's FlexAttention runs uncompiled, with gradients on the CPU."""
    before = theirs._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG, theirs._validate_device
    theirs._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG, theirs._validate_device = True, lambda *_: None
    try:
        yield
    finally:
        theirs._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG, theirs._validate_device = before


def tensors(
    batch: int = 2,
    heads: int = 4,
    q_len: int = 64,
    head_dim: int = 8,
    *,
    kv_batch: int | None = None,
    kv_heads: int | None = None,
    kv_len: int | None = None,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v."""
    rows = (kv_batch or batch, kv_heads or heads, kv_len or q_len)
    shapes = ((batch, heads, q_len, head_dim), (*rows, head_dim), (*rows, value_dim or head_dim))
    q, k, v = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return q, k, v


def block_masks(mask_mod: Any, q: Tensor, k: Tensor, batch: int | None, heads: int | None, block: Any) -> list[Any]:
    """PyTorch's block mask and ours."""
    sizes = (batch, heads, q.shape[2], k.shape[2], "cpu", block)
    return [None if mask_mod is None else made.create_block_mask(mask_mod, *sizes) for made in (theirs, ours)]


def agree(
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    qkv: Sequence[Tensor] | None = None,
    captures: Sequence[Tensor] = (),
    *,
    batch: int | None = None,
    heads: int | None = None,
    block: int | tuple[int, int] = 128,
    scale: float | None = None,
    gradients: bool = True,
    tolerance: float | None = None,
) -> None:
    """Both give the same output, lse and gradients, those of `captures` included, and ours are finite."""
    q, k, v = tensors() if qkv is None else qkv
    masks = block_masks(mask_mod, q, k, batch, heads, block)
    grouped = q.shape[1] != k.shape[1]
    allowed = TOLERANCE[q.dtype] if tolerance is None else tolerance
    results = []
    for made, block_mask in zip((theirs, ours), masks, strict=True):
        leaves = [t.detach().clone().requires_grad_(gradients) for t in (q, k, v)]
        request = made.AuxRequest(lse=True)
        with eager():
            out, aux = made.flex_attention(
                *leaves, score_mod, block_mask, scale, enable_gqa=grouped, return_aux=request
            )
            grads = torch.autograd.grad(_total(out, aux.lse), leaves) if gradients else ()
        results.append((out, aux.lse, *grads))
    for name, wanted, found in zip(("out", "lse", "q", "k", "v"), *results, strict=False):
        close(name, found, wanted, allowed)
    if captures:
        wanted = torch.autograd.grad(_total(*dense(score_mod, mask_mod, q, k, v, scale)), captures)
        out, aux = ours.flex_attention(
            q, k, v, score_mod, masks[1], scale, grouped, return_aux=ours.AuxRequest(lse=True)
        )
        for each, found in zip(wanted, torch.autograd.grad(_total(out, aux.lse), captures), strict=True):
            close("captured", found, each, allowed)


def dense(
    score_mod: Any, mask_mod: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """PyTorch's dense eager function: out and lse, differentiable by whatever the functions capture."""
    shown = theirs.noop_mask if mask_mod is None else mask_mod
    score = theirs._identity if score_mod is None else score_mod
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out, lse, _ = math_attention(q, k, v, score, (shown,), factor, {})
    return out, lse * math.log(2)


def close(name: str, found: Tensor, wanted: Tensor, allowed: float) -> None:
    """The two are equal up to `allowed`, infinities and places included."""
    assert found.shape == wanted.shape, name
    assert found.dtype == wanted.dtype, name
    assert not found.isnan().any(), name
    infinite = wanted.isinf()
    assert torch.equal(found[infinite], wanted[infinite]), name
    found, wanted = found[~infinite].double(), wanted[~infinite].double()
    if found.numel():
        error = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.0e}"


def _total(out: Tensor, lse: Tensor) -> Tensor:
    """A number that depends on every output in its own way; rows without a key have no lse."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    seen = lse.masked_fill(lse.isinf(), 0.0)
    return (out * weights).sum() + (seen * torch.linspace(1, 2, lse.numel(), dtype=lse.dtype).view_as(lse)).sum()

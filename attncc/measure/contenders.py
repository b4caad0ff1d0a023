"""Implementations of attention that can be measured beside attncc, each for what it can compute.

A contender gets a problem and gives a call on q, k and v, or says why it cannot: `Unable`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attncc.api import Variant
from attncc.measure.cases import Function, Shape, causal

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
#: The largest mask that SDPA is given as a tensor, in elements.
MOST_MASKED: Final = 1 << 29


class Unable(Exception):
    """Why an implementation cannot compute a problem."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is computed: the variant, and its functions as FlexAttention takes them."""

    variant: Variant
    score_mod: Function | None
    mask_mod: Function | None
    shape: Shape
    device: str
    captures: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # of attncc's call

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key head."""
        return self.shape.heads != self.shape.kv_heads


def _attncc(problem: Problem) -> Attend:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = problem.variant(q, k, v, **problem.options)
        return out

    return call


def _flex(problem: Problem) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # late: it imports the compiler

    shape = problem.shape
    blocks = None
    if problem.mask_mod is not None:
        sizes = (shape.batch, shape.heads, shape.q_len, shape.kv_len)
        blocks = create_block_mask(problem.mask_mod, *sizes, device=problem.device)
    compiled = torch.compile(flex_attention, dynamic=False)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = compiled(q, k, v, problem.score_mod, blocks, enable_gqa=problem.grouped)
        return out

    return call


def _sdpa(problem: Problem, backend: SDPBackend | None = None) -> Attend:
    options: dict[str, Any] = {"enable_gqa": problem.grouped}
    if problem.score_mod is not None:
        raise Unable("SDPA modifies no scores")
    if problem.mask_mod is causal:
        options["is_causal"] = True
    elif problem.mask_mod is not None:
        if backend is not None:
            raise Unable("it takes no mask but causal")
        options["attn_mask"] = _dense_mask(problem)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v, **options)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **options)

    return call


def _dense_mask(problem: Problem) -> Tensor:
    shape, mask_mod = problem.shape, problem.mask_mod
    assert mask_mod is not None
    if shape.batch * shape.heads * shape.q_len * shape.kv_len > MOST_MASKED:
        raise Unable("its mask, a Boolean for each pair, would not fit")
    axes = [torch.arange(n, device=problem.device) for n in (shape.batch, shape.heads, shape.q_len, shape.kv_len)]
    b, h, q_idx, kv_idx = (axis.view([-1 if d == i else 1 for d in range(4)]) for i, axis in enumerate(axes))
    return torch.as_tensor(mask_mod(b, h, q_idx, kv_idx)).expand(-1, -1, shape.q_len, shape.kv_len).contiguous()


def _flash(problem: Problem) -> Attend:
    if not problem.device.startswith("cuda"):
        raise Unable("it runs on GPUs only")
    return _sdpa(problem, SDPBackend.FLASH_ATTENTION)


def _cudnn(problem: Problem) -> Attend:
    if not problem.device.startswith("cuda"):
        raise Unable("it runs on GPUs only")
    return _sdpa(problem, SDPBackend.CUDNN_ATTENTION)


def _flash4(problem: Problem) -> Attend:
    try:
        flash_attn_func = importlib.import_module("flash_attn.cute").flash_attn_func  # late: few machines have it
    except ImportError as error:
        raise Unable("flash_attn.cute is not installed") from error
    if problem.score_mod is not None or problem.mask_mod not in (None, causal):
        raise Unable("here it is called for full and causal attention only")

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned = (tensor.transpose(1, 2) for tensor in (q, k, v))
        found = flash_attn_func(*turned, causal=problem.mask_mod is causal)
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out.transpose(1, 2)

    return call


#: By the name on the command line: what tables call it, and what makes its call.
CONTENDERS: Final[dict[str, tuple[str, Callable[[Problem], Attend]]]] = {
    "attncc": ("attncc", _attncc),
    "flex": ("FlexAttention", _flex),
    "sdpa": ("SDPA", _sdpa),
    "cudnn": ("SDPA (cuDNN)", _cudnn),
    "fa2": ("SDPA (FlashAttention-2)", _flash),
    "fa4": ("FlashAttention-4", _flash4),
}

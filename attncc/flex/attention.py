"""`flex_attention` with torch's arguments and return values, run by attncc.

What torch needs `torch.compile` for needs nothing here: the functions are compiled when they are called, for any
length, and gradients work on every device.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest

from attncc.api import attention
from attncc.api.graph import attend_in_graph, is_followed
from attncc.api.inputs import RANK, check_inputs, check_tensor
from attncc.api.lowering import make_call, run_with_largest
from attncc.api.options import Options
from attncc.api.program import read_functions
from attncc.errors import InputError
from attncc.flex.block_mask import WHOLE, BlockMask, obeying
from attncc.flex.functions import Function

BACKENDS: Final = ("AUTO", "TRITON", "FLASH", "TRITON_DECODE")
#: What torch computes by itself and does not let anybody pass.
INTERNAL: Final = ("OUTPUT_LOGSUMEXP", "OUTPUT_MAX")


class SlicedMaskError(InputError, RuntimeError):
    """A sliced block mask has no mask function; also a RuntimeError, as in torch."""


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Function | None = None,
    block_mask: torch_flex.BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Mapping[str, Any] | None = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """Attention with a function of scores and a mask; everything as in `torch.nn.attention.flex_attention`.

    Shapes: query [B, Hq, L, E], key [B or 1, Hkv, S, E], value [B or 1, Hkv, S, Ev]. Returns out [B, Hq, L, Ev]; with
    `return_aux` also an AuxOutput, with the deprecated `return_lse` also lse [B, Hq, L]. `kernel_options` speak of
    torch's kernels: they are checked as torch checks them, and attncc chooses by itself.
    """
    if return_lse and return_aux is not None:
        hint = "return_lse is deprecated: use return_aux=AuxRequest(lse=True)"
        raise InputError("`return_lse` and `return_aux` are both given", hint=hint)
    if return_lse:
        message = "return_lse is deprecated in torch: use return_aux=AuxRequest(lse=True)"
        warnings.warn(message, FutureWarning, stacklevel=2)
    _check_kernel_options(kernel_options)
    q, k, v = _checked(query, key, value, enable_gqa)
    (batch, heads, q_len, _), kv_len = q.shape, k.shape[2]
    mask_mod = None if block_mask is None else mask_of(block_mask, batch, heads, q_len, kv_len)
    if return_aux is None:
        return attention(q, k, v, score_mod, mask_mod, scale=scale, return_lse=return_lse)
    if return_aux.max_scores:
        out, lse, largest = _with_largest(q, k, v, score_mod, mask_mod, scale)
        return out, AuxOutput(lse=lse if return_aux.lse else None, max_scores=largest)
    if return_aux.lse:
        out, lse = attention(q, k, v, score_mod, mask_mod, scale=scale, return_lse=True)
        return out, AuxOutput(lse=lse)
    return attention(q, k, v, score_mod, mask_mod, scale=scale), AuxOutput()


def _check_kernel_options(options: Mapping[str, Any] | None) -> None:
    given = options or {}
    for name in INTERNAL:
        if name in given:
            raise InputError(f"`{name}` is not an option: it follows from `return_aux`")
    if "BACKEND" not in given:
        return
    if given.get("FORCE_USE_FLEX_ATTENTION", False):
        raise InputError("BACKEND and FORCE_USE_FLEX_ATTENTION are both given", hint="BACKEND supersedes the other")
    if given["BACKEND"] not in BACKENDS:
        raise InputError(f"there is no BACKEND {given['BACKEND']!r}", hint=f"torch has {', '.join(BACKENDS)}")


def _checked(query: object, key: object, value: object, enable_gqa: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors; keys and values of another float dtype are converted to that of the queries."""
    q, k, v = (check_tensor(name, t) for name, t in (("query", query), ("key", key), ("value", value)))
    for name, tensor in (("query", q), ("key", k), ("value", v)):
        if tensor.dim() != RANK:
            raise InputError(
                f"`{name}` must have 4 dimensions, but has {tensor.dim()} dimensions: {list(tensor.shape)}"
            )
    if k.dtype != q.dtype and k.dtype == v.dtype and k.is_floating_point() and q.is_floating_point():
        k, v = k.to(q.dtype), v.to(q.dtype)
    if q.shape[1] != k.shape[1] and not enable_gqa:
        problem = f"query has {q.shape[1]} heads and key has {k.shape[1]}"
        raise InputError(problem, hint="grouped heads need enable_gqa=True")
    return q, k, v


def mask_of(block_mask: object, batch: int, heads: int, q_len: int, kv_len: int) -> Function:
    """The mask function of a block mask: its own where that says all, otherwise one that obeys the lists.

    Raises InputError for a block mask that was made for other sizes, or that has no mask function.
    """
    if not isinstance(block_mask, torch_flex.BlockMask):
        hint = "create_block_mask makes one of a mask function"
        raise InputError(f"`block_mask` must be a BlockMask, but is {type(block_mask).__name__}", hint=hint)
    if block_mask.mask_mod is torch_flex._sliced_mask_mod_error:
        hint = "assign one to its `mask_mod`, made from that of the block mask that was sliced"
        raise SlicedMaskError("a sliced BlockMask has no mask function", hint=hint)
    is_whole = tuple(block_mask.BLOCK_SIZE) == (WHOLE, WHOLE)
    shape = block_mask.shape
    if not is_whole and (q_len, kv_len) != tuple(shape[-2:]):
        problem = f"block_mask is for {shape[-2]} queries and {shape[-1]} keys, but there are {q_len} and {kv_len}"
        raise InputError(problem, hint="make it with these lengths, which costs nothing")
    for name, size, made in zip(("batches", "heads"), (batch, heads), (1, 1, *shape[:-2])[-2:], strict=True):
        if made not in (1, size):
            raise InputError(f"block_mask is for {made} {name}, but there are {size}")
    if isinstance(block_mask, BlockMask) and block_mask.is_symbolic:
        mask_mod: Function = block_mask.mask_mod
        return mask_mod
    return obeying(block_mask, q_len, kv_len)


def _with_largest(
    q: Tensor, k: Tensor, v: Tensor, score_mod: Function | None, mask_mod: Function | None, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, lse, and the largest score of each row."""
    if torch.compiler.is_dynamo_compiling() and is_followed():
        return attend_in_graph(score_mod, mask_mod, q, k, v, scale, Options("auto"), largest=True)
    inputs = check_inputs(q, k, v, scale)
    reading = read_functions(score_mod, mask_mod, None, inputs.q.device)
    return run_with_largest(make_call(reading, inputs, Options("auto")))

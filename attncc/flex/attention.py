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

from attncc.api.inputs import Inputs, check_inputs, check_tensor
from attncc.api.lowering import Call, backend_of, make_call, run
from attncc.api.options import Options
from attncc.api.program import read_functions
from attncc.errors import InputError, UnsupportedError
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
    inputs = _inputs(query, key, value, scale, enable_gqa)
    (batch, heads, q_len, _), kv_len = inputs.q.shape, inputs.k.shape[2]
    mask_mod = None if block_mask is None else mask_of(block_mask, batch, heads, q_len, kv_len)
    reading = read_functions(score_mod, mask_mod, None, inputs.q.device)
    call = make_call(reading, inputs, Options("auto"))
    if return_aux is not None and return_aux.max_scores:
        out, lse, largest = _with_largest(call)
        return out, AuxOutput(lse=lse if return_aux.lse else None, max_scores=largest)
    out, lse = run(call)
    if return_aux is not None:
        return out, AuxOutput(lse=lse if return_aux.lse else None)
    return (out, lse) if return_lse else out


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


def _inputs(query: object, key: object, value: object, scale: float | None, enable_gqa: bool) -> Inputs:
    """Checked tensors; keys and values of another float dtype are converted to that of the queries."""
    q, k, v = (check_tensor(name, t) for name, t in (("query", query), ("key", key), ("value", value)))
    if k.dtype != q.dtype and k.dtype == v.dtype and k.is_floating_point() and q.is_floating_point():
        k, v = k.to(q.dtype), v.to(q.dtype)
    inputs = check_inputs(q, k, v, scale)
    heads, kv_heads = inputs.q.shape[1], inputs.k.shape[1]
    if heads != kv_heads and not enable_gqa:
        raise InputError(f"query has {heads} heads and key has {kv_heads}", hint="grouped heads need enable_gqa=True")
    return inputs


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


def _with_largest(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The output, lse, and the largest score of each row."""
    if backend_of(call) == "reference":
        raise UnsupportedError("the reference computes no largest scores")
    inputs = call.inputs
    rest = (list(call.captures), list(call.parameters), inputs.scale, call.program.text, 0, 0, backend_of(call))
    bounds = call.options.checks_bounds(inputs.q.device.type)
    out, lse, _, sums = torch.ops.attncc.forward(inputs.q, inputs.k, inputs.v, *rest, bounds)
    # lse = largest + log(sum of exp(score - largest)), in whichever base the kernels count
    largest = torch.where(sums == 0, lse, lse - sums.log()).detach()
    return out, lse, largest

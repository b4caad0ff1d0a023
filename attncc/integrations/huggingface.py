"""attncc as an attention of Hugging Face transformers: `register()`, then `attn_implementation="attncc"`.

Masks of transformers are functions of positions; they are compiled as they stand and never become tensors. What a model
adds to attention (a soft cap, sinks, a position bias) is compiled with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import and_masks, causal_mask_function, padding_mask_function, prepare_padding_mask

from attncc.api import attention
from attncc.errors import InputError, UnsupportedError
from attncc.flex import BlockMask, create_block_mask
from attncc.flex.attention import mask_of
from attncc.variants.causal import causal

NAME = "attncc"


def register(name: str = NAME) -> None:
    """Add attncc to transformers under a name for `attn_implementation`; doing it again changes nothing."""
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, make_mask)


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **rest: Any,
) -> BlockMask | None:
    """The mask of a call as a block mask that holds functions; None where every query sees every key.

    `attention_mask` is the padding, bool [B, S], True for tokens. The other arguments are those of all mask interfaces.
    """
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None and not torch.compiler.is_compiling() and bool(padding.all()):
        padding = None
    if padding is None and allow_is_bidirectional_skip and rest.get("local_size") is None:
        return None
    if padding is not None:
        mask_function = and_masks(mask_function, padding_mask_function(padding))
    if isinstance(q_offset, Tensor) or q_offset != 0 or kv_offset != 0:
        mask_function = _moved(mask_function, q_offset, kv_offset)
    elif mask_function is causal_mask_function:
        mask_function = causal
    return create_block_mask(mask_function, batch_size, None, q_length, kv_length, device)


def _moved(mask_function: Callable[..., Any], q_offset: int | Tensor, kv_offset: int) -> Callable[..., Any]:
    """The mask where queries and keys are counted from where the call's own begin."""

    def moved(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mask_function(b, h, q_idx + q_offset, kv_idx + kv_offset)

    return moved


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | TorchBlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The output [B, L, Hq, Dv] of a layer, and None in the place of weights. Raises UnsupportedError by name for what
    attncc does not do: dropout in attention, weights as an output, a paged cache."""
    _refuse(dropout, rest)
    mask_mod, bias = None, None
    if isinstance(attention_mask, TorchBlockMask):
        mask_mod = mask_of(attention_mask, query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    elif attention_mask is not None and attention_mask.dtype == torch.bool:
        mask_mod = _reader("attention_mask", attention_mask[..., : key.shape[2]])
    elif attention_mask is not None:
        bias = attention_mask[..., : key.shape[2]]
    elif query.shape[2] > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        mask_mod = causal
    score_mod = _score_mod(softcap, bias, position_bias)
    out, lse = attention(query, key, value, score_mod, mask_mod, scale=scaling, return_lse=True)
    if s_aux is not None:
        # a sink is one more score, of a key without a value: it takes its share of the sum
        out = out * torch.sigmoid(lse - s_aux.to(lse.dtype).view(1, -1, 1)).unsqueeze(-1).to(out.dtype)
    return out.transpose(1, 2).contiguous(), None


def _refuse(dropout: float, rest: dict[str, Any]) -> None:
    if dropout > 0.0:
        hint = "set the dropout of attention to 0 in the model's config, as in attention_dropout=0.0"
        raise UnsupportedError(f"attncc has no dropout in attention, but the model asks for {dropout}", hint=hint)
    if rest.get("output_attentions"):
        hint = 'use attn_implementation="eager" to look at weights'
        raise UnsupportedError("attncc does not return attention weights (output_attentions=True)", hint=hint)
    if rest.get("head_mask") is not None:
        raise UnsupportedError("attncc has no `head_mask`", hint='use attn_implementation="eager"')
    if type(rest.get("cache")).__name__ == "PagedAttentionCache":
        raise UnsupportedError("attncc does not read paged caches (continuous batching)", hint="use model.generate")


def _score_mod(softcap: float | None, bias: Tensor | None, position_bias: Tensor | None) -> Callable[..., Any] | None:
    """What happens to a score: first the soft cap, then what is added to it."""
    readers = [
        _reader(name, t) for name, t in (("attention_mask", bias), ("position_bias", position_bias)) if t is not None
    ]
    if softcap is None and not readers:
        return None

    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        for read in readers:
            score = score + read(b, h, q_idx, kv_idx)
        return score

    return score_mod


def _reader(name: str, tensor: Tensor) -> Callable[..., Any]:
    """A function that reads what a model or its user gives as a tensor [B or 1, H or 1, L or 1, S]."""
    if tensor.dim() != 4:
        raise InputError(f"`{name}` must be [B, H, L, S], but has {tensor.dim()} dimensions: {list(tensor.shape)}")
    one_b, one_h, one_q = (size == 1 for size in tensor.shape[:3])

    def read(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return tensor[0 if one_b else b, 0 if one_h else h, 0 if one_q else q_idx, kv_idx]

    return read

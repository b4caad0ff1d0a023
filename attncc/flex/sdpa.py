"""`sdpa`: the signature of `torch.nn.functional.scaled_dot_product_attention`, run by attncc."""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor

from attncc.api import Variant
from attncc.api.inputs import check_tensor
from attncc.errors import InputError, UnsupportedError
from attncc.ir import (
    ANY_DIM,
    KV_IDX,
    Q_IDX,
    SCORE,
    AttentionSpec,
    B,
    Capture,
    H,
    Op,
    Scalar,
    apply,
    const,
    load,
)

#: Of the four dimensions of attn_mask, those of size 1.
Ones = tuple[bool, bool, bool, bool]


def _with_attn_mask(scalar: Scalar, ones: Ones) -> Variant:
    """Attention with a bool mask or a float bias of pairs that is the same along some dimensions."""
    positions = (const(0) if one else position for one, position in zip(ones, (B, H, Q_IDX, KV_IDX), strict=True))
    read = load("attn_mask", scalar, *positions)
    captures = (Capture("attn_mask", scalar, (ANY_DIM,) * 4),)
    if scalar is Scalar.BOOL:
        return Variant(AttentionSpec("sdpa", mask=read, captures=captures))
    return Variant(AttentionSpec("sdpa", score=apply(Op.ADD, SCORE, read), captures=captures))


# All of them are made at once: torch.compile follows a look-up, but not how a variant is made.
PLAIN: Final = Variant(AttentionSpec("sdpa"))
CAUSAL: Final = Variant(AttentionSpec("sdpa_causal", mask=apply(Op.GE, Q_IDX, KV_IDX)))
MASKED: Final = {
    (scalar is Scalar.BOOL, ones): _with_attn_mask(scalar, ones)  # type: ignore[arg-type]  # product gives tuples
    for scalar in (Scalar.BOOL, Scalar.FLOAT)
    for ones in itertools.product((False, True), repeat=4)
}


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query . key * scale + attn_mask) . value; everything as in torch, but without dropout.

    Shapes: query [..., Hq, L, E], key [..., Hkv, S, E], value [..., Hkv, S, Ev]; attn_mask broadcasts to
    [..., Hq, L, S], bool with True for what is seen, or float to be added. `is_causal` counts from the first query and
    the first key. A query that sees no key gives 0.
    """
    if dropout_p > 0.0:
        raise UnsupportedError(f"attncc.sdpa has no dropout, but `dropout_p` is {dropout_p}", hint="pass dropout_p=0.0")
    if is_causal and attn_mask is not None:
        raise InputError("`is_causal` and `attn_mask` are both given", hint="join them: attn_mask & causal")
    q, k, v = (_four(name, t) for name, t in (("query", query), ("key", key), ("value", value)))
    if q.shape[1] != k.shape[1] and not enable_gqa:
        raise InputError(
            f"query has {q.shape[1]} heads and key has {k.shape[1]}", hint="grouped heads need enable_gqa=True"
        )
    if attn_mask is None:
        out: Tensor = (CAUSAL if is_causal else PLAIN)(q, k, v, scale=scale)
    else:
        mask = _mask(attn_mask, query.shape[:-1], k.shape[2])
        ones = (mask.shape[0] == 1, mask.shape[1] == 1, mask.shape[2] == 1, mask.shape[3] == 1)
        out = MASKED[mask.dtype == torch.bool, ones](q, k, v, scale=scale, attn_mask=mask)
    return out.reshape(*query.shape[:-1], value.shape[-1])


def _four(name: str, value: object) -> Tensor:
    """The tensor as [B, H, L, E]: what stands before the heads is one batch."""
    tensor = check_tensor(name, value)
    if tensor.dim() < 2:
        raise InputError(f"`{name}` must be [..., L, E], but has {tensor.dim()} dimensions: {list(tensor.shape)}")
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    return tensor if tensor.dim() == 4 else tensor.flatten(0, -4)


def _mask(attn_mask: Tensor, rows: torch.Size, kv_len: int) -> Tensor:
    """The mask as four dimensions, each of its size or 1; batches of several dimensions are made one."""
    mask = check_tensor("attn_mask", attn_mask)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        hint = "attn_mask.bool() shows what is not 0"
        raise InputError(
            f"`attn_mask` must be bool or float, but is {str(mask.dtype).removeprefix('torch.')}", hint=hint
        )
    whole = (*((1,) * (4 - 1 - len(rows))), *rows, kv_len)
    mask = mask[(None,) * (len(whole) - mask.dim())]
    if mask.dim() != len(whole) or any(size not in (1, full) for size, full in zip(mask.shape, whole, strict=True)):
        raise InputError(f"`attn_mask` is {list(attn_mask.shape)}, which does not broadcast to {[*rows, kv_len]}")
    if len(whole) > 4:
        mask = mask.expand(*whole[:-3], *mask.shape[-3:]).flatten(0, -4)
    return mask

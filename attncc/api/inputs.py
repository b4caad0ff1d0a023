"""The checks of q, k, v and scale: what comes in is whatever a user passed, what goes out fits every back end.

Each refusal names the shapes, dtypes or devices that do not fit. Nothing is copied or converted here, except that
autocast converts q, k and v as it does for torch's own scaled_dot_product_attention, and that a batch of one in k and
v is expanded (without a copy) to that of q.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from attncc.errors import InputError, UnsupportedError

#: The devices that autocast knows, asked once: torch.compile cannot ask (torch 2.11).
AUTOCAST = frozenset(
    kind for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "xla", "mtia") if torch.amp.is_autocast_available(kind)
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RANK = 4
USUAL_SCALE = "leave it out for 1 / sqrt(D)"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Checked tensors. Shapes: q [B, Hq, Lq, D], k [B, Hkv, Lkv, D], v [B, Hkv, Lkv, Dv]; Hq is a multiple of Hkv."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float


def check_inputs(q: object, k: object, v: object, scale: object = None) -> Inputs:
    """The tensors as back ends take them. Raises InputError or UnsupportedError for anything that does not fit."""
    tensors = {"q": q, "k": k, "v": v}
    for name, value in tensors.items():
        check_tensor(name, value)
    _check_ranks(tensors)
    _check_devices(tensors)
    q, k, v = _autocast(*tensors.values())
    _check_dtypes(q, k, v)
    _check_sizes(q, k, v)
    if k.shape[0] != q.shape[0]:
        k, v = k.expand(q.shape[0], -1, -1, -1), v.expand(q.shape[0], -1, -1, -1)
    return Inputs(q, k, v, check_scale(scale, q.shape[-1]))


def check_tensor(name: str, value: object) -> Tensor:
    """The value, which must be a dense, real tensor with data."""
    if not isinstance(value, Tensor):
        hint = f"torch.as_tensor({name}) makes one" if _is_array(value) else None
        raise InputError(f"`{name}` must be a tensor, but is {kind_of(value)}", hint=hint)
    if value.is_nested:
        hint = "pad it, or pack the sequences into one and mask by document"
        raise UnsupportedError(f"`{name}` is a nested tensor, which attncc does not take", hint=hint)
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        raise UnsupportedError(f"`{name}` is a sparse tensor ({kind})", hint=f"pass {name}.to_dense()")
    if value.is_quantized:
        raise UnsupportedError(f"`{name}` is a quantized tensor ({value.dtype})", hint=f"pass {name}.dequantize()")
    if value.is_complex():
        hint = f"attend to real numbers, such as torch.view_as_real({name}).flatten(-2)"
        raise UnsupportedError(f"`{name}` is complex ({value.dtype}), which attention has no meaning for", hint=hint)
    if value.is_meta:
        raise InputError(f"`{name}` is on the meta device and holds no data", hint="move it with to_empty(device=...)")
    return value


def kind_of(value: object) -> str:
    """The type of a value with its article: `a list`, `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' or name == 'ndarray' else 'a'} {name}"


def _is_array(value: object) -> bool:
    return hasattr(value, "__array__") or isinstance(value, list | tuple)


def check_scale(scale: object, head_dim: int) -> float:
    """The factor of q . k: what was given, or 1 / sqrt(head_dim)."""
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(scale, Tensor):
        hint = "pass a float; for a learned scale multiply q by it, or write it into score_mod"
        raise InputError("`scale` is a tensor", hint=hint)
    if isinstance(scale, torch.SymFloat) or (torch.compiler.is_dynamo_compiling() and isinstance(scale, float)):
        return scale  # type: ignore[return-value]  # torch.compile may leave it open
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InputError(f"`scale` must be a number, but is {kind_of(scale)}", hint=USUAL_SCALE)
    if not math.isfinite(scale):
        raise InputError(f"`scale` is {float(scale)}, which makes every score meaningless", hint=USUAL_SCALE)
    return float(scale)


def _check_ranks(tensors: dict[str, Any]) -> None:
    wanted = {"q": "[B, Hq, Lq, D]", "k": "[B, Hkv, Lkv, D]", "v": "[B, Hkv, Lkv, Dv]"}
    for name, tensor in tensors.items():
        if tensor.dim() != RANK:
            hint = f"{name}.unsqueeze(0) adds a batch of one" if tensor.dim() == RANK - 1 else None
            shape = list(tensor.shape)
            raise InputError(f"`{name}` must be {wanted[name]}, but has {tensor.dim()} dimensions: {shape}", hint=hint)


def _check_devices(tensors: dict[str, Any]) -> None:
    q, k, v = tensors.values()
    if not q.device == k.device == v.device:
        placed = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise InputError(
            f"q, k and v must be on one device, but are {placed}", hint=f"move them, as in k.to({str(q.device)!r})"
        )


def _autocast(*tensors: Any) -> tuple[Tensor, ...]:
    """As torch's autocast treats scaled_dot_product_attention: all but float64 becomes the autocast dtype."""
    kind = tensors[0].device.type
    if kind not in AUTOCAST or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    castable = (torch.float32, torch.bfloat16, torch.float16)
    return tuple(tensor.to(dtype) if tensor.dtype in castable else tensor for tensor in tensors)


def _check_dtypes(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise InputError(f"`{name}` is {_dtype(tensor)}, which attention does not take", hint=f"one of {allowed}")
    if not q.dtype == k.dtype == v.dtype:
        kinds = f"q is {_dtype(q)}, k is {_dtype(k)}, v is {_dtype(v)}"
        raise InputError(f"q, k and v must have one dtype, but {kinds}", hint="convert them, or use torch.autocast")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_sizes(q: Tensor, k: Tensor, v: Tensor) -> None:
    batch, heads, _, head_dim = q.shape
    kv_batch, kv_heads, kv_len, k_dim = k.shape
    if v.shape[:3] != (kv_batch, kv_heads, kv_len):
        raise _misfit("k and v must agree in all but the last size", q, k, v, "each key has one value")
    if kv_batch not in (batch, 1):
        raise _misfit(
            "the batch of k and v must be that of q, or 1", q, k, v, "repeat or index k and v along dimension 0"
        )
    if head_dim != k_dim:
        raise _misfit("the head sizes of q and k differ", q, k, v, "a score is their product; only v may have another")
    if 0 in (head_dim, heads, kv_heads):
        raise _misfit(
            "there must be at least one head, and a head size of at least 1", q, k, v, "batch and lengths may be 0"
        )
    if heads % kv_heads:
        hint = "each key head serves the same number of query heads"
        raise _misfit(f"{heads} query heads cannot share {kv_heads} key heads", q, k, v, hint)


def _misfit(problem: str, q: Tensor, k: Tensor, v: Tensor, hint: str) -> InputError:
    return InputError(f"{problem}: q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}", hint=hint)

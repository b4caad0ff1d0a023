"""The arguments of Triton kernels, by key: tensors as addresses, strides, sizes, captures, parameters.

Kernels name their arguments by role; a call gathers the values of all roles once and each kernel takes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:  # a kernel that is found in the cache needs no emitter
    from attncc.emit.triton.plan import Role

#: Largest stride of a position that 32-bit offsets inside a tile can take.
MAX_STRIDE: Final = 1 << 22
ALIGNMENT: Final = 16
#: Elements that 32-bit offsets reach, less what the last tile may add.
MAX_SPAN: Final = (1 << 31) - (1 << 30)
_STATISTICS: Final = ("statistic_min", "statistic_max", "statistic_nan", "statistic_stride")
_NUMBERED: Final = frozenset(("capture", "capture_stride", "capture_size", "parameter", "grad_sum", *_STATISTICS))

Values = dict[str, Any]


def key_of(role: Role) -> str:
    """The key of an argument."""
    return f"{role.kind}:{role.index}:{role.dim}" if role.kind in _NUMBERED else role.kind


def fit(tensor: Tensor) -> Tensor:
    """The tensor with a contiguous last dimension and a stride of positions that 32 bits hold inside a tile."""
    if tensor.stride(3) == 1 and 0 <= tensor.stride(2) < MAX_STRIDE:
        return tensor
    return tensor.contiguous()


def positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """q and a scale above 0 with the same products: kernels take the largest score of a row before they scale it."""
    if scale > 0.0:
        return q, scale
    return (-q, -scale) if scale < 0.0 else (torch.zeros_like(q), 1.0)


def fit_capture(capture: Tensor, q: Tensor) -> Tensor:
    """A capture as kernels read it: on the device of q, its last dimension contiguous."""
    capture = capture.detach()
    if capture.device != q.device:
        capture = capture.to(q.device)
    return capture if capture.dim() == 0 or capture.stride(-1) == 1 else capture.contiguous()


def fit_rows(rows: Tensor) -> Tensor:
    """Numbers of rows [B, Hq, Lq] as kernels take them: contiguous, from an address that is a multiple of 16."""
    rows = rows.contiguous()
    return rows if rows.data_ptr() % ALIGNMENT == 0 else rows.clone()


def aligned(*tensors: Tensor) -> bool:
    """Whether all addresses and strides are multiples of 16."""
    return all(
        tensor.data_ptr() % ALIGNMENT == 0 and not any(s % ALIGNMENT for s in tensor.stride()[:3]) for tensor in tensors
    )


def wide(*tensors: Tensor) -> bool:
    """Whether a sequence of some head spans so many elements that positions in it need 64 bits."""
    return any(tensor.shape[2] * tensor.stride(2) > MAX_SPAN for tensor in tensors)


def pointer(tensor: Tensor) -> Any:
    """What a launch takes for a tensor: its address, or the tensor itself in the interpreter."""
    return tensor.data_ptr() if tensor.is_cuda else tensor


def strides(name: str, tensor: Tensor) -> Values:
    """The strides of a tensor [B, H, N, D] but for its last."""
    b, h, n, _ = tensor.stride()
    return {f"{name}_stride_b": b, f"{name}_stride_h": h, f"{name}_stride_n": n}


def call_values(
    q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], parameters: Sequence[int], scale: float
) -> Values:
    """The arguments that every kernel may ask for, by key."""
    values: Values = {
        "q_ptr": pointer(q),
        "k_ptr": pointer(k),
        "v_ptr": pointer(v),
        **strides("q", q),
        **strides("k", k),
        **strides("v", v),
        "batch": q.shape[0],
        "heads": q.shape[1],
        "group": q.shape[1] // k.shape[1],
        "q_len": q.shape[2],
        "kv_len": k.shape[2],
        "scale": scale,
    }
    if k.shape[0] != q.shape[0]:
        values |= {"k_stride_b": 0, "v_stride_b": 0}
    for i, capture in enumerate(captures):
        values[f"capture:{i}:0"] = pointer(capture)
        for d, (stride, size) in enumerate(zip(capture.stride(), capture.shape, strict=True)):
            values[f"capture_stride:{i}:{d}"] = stride
            values[f"capture_size:{i}:{d}"] = size
    for i, parameter in enumerate(parameters):
        values[f"parameter:{i}:0"] = parameter
    return values

"""Tensors described to the GPU's tensor memory accelerator (TMA), which Gluon kernels load and store by.

The driver encodes a description; what it says is known to the GPU alone. It holds the tensor's address, so that it is
remembered by address for as long as a call's layout stays.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from attncc.errors import InternalError
from attncc.runtime.driver import driver
from attncc.runtime.triton_build import DESCRIPTOR_ALIGNMENT, DESCRIPTOR_BYTES

#: Numbers of the CUDA driver's interface.
ELEMENTS: Final = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
NOT_INTERLEAVED, PROMOTE_L2_128, FILL_ZERO = 0, 2, 0
#: How tiles lie in shared memory: as pieces of a row, or swizzled, of which the TMA moves so many bytes at once.
PLAIN, SWIZZLE_128, SWIZZLED_BYTES = 0, 3, 128
ALIGNMENT: Final = 16
#: Layouts that are remembered, and descriptions of each.
REMEMBERED: Final = 256

#: Sizes of the tile that is moved at once, of a tensor [B, H, N, D], [B * H, N, D] of sums, or [B * H, N] of rows.
Box = tuple[int, ...]


def describable(*tensors: Tensor) -> bool:
    """Whether the TMA can move tiles of tensors [B, H, N, D] of one call: nothing is repeated by a stride of 0, and
    there is no batch of one beside larger ones."""
    repeats = any(
        stride == 0 and size > 1
        for tensor in tensors
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return not repeats and len({tensor.shape[0] for tensor in tensors}) == 1


def descriptor_of(tensor: Tensor, box: Box) -> Descriptor:
    """What describes tensors of this tensor's layout, which are moved in tiles of `box`."""
    return _descriptor(tensor.dtype, tuple(tensor.shape), tensor.stride(), box)


@lru_cache(maxsize=REMEMBERED)
def _descriptor(dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...], box: Box) -> Descriptor:
    return Descriptor(dtype, sizes, strides, box)


class Descriptor:
    """Describes tensors of one layout that are moved in tiles of `box`; it is made once and asked for each address."""

    def __init__(self, dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...], box: Box) -> None:
        self._element, self._rank, wide = ELEMENTS[dtype], len(box), dtype.itemsize
        of_rows = len(box) == 2
        moved = box if of_rows else (*box[:-1], min(box[-1], SWIZZLED_BYTES // wide))
        # The stride of a dimension of one element means nothing, and may be any that the TMA takes.
        usable = [stride if size > 1 else ALIGNMENT for stride, size in zip(strides, sizes, strict=True)]
        self._swizzle = PLAIN if of_rows else SWIZZLE_128
        self._sizes = (ctypes.c_uint64 * len(box))(*reversed(sizes))
        self._strides = (ctypes.c_uint64 * (len(box) - 1))(*(stride * wide for stride in reversed(usable[:-1])))
        self._box = (ctypes.c_uint32 * len(box))(*reversed(moved))
        self._steps = (ctypes.c_uint32 * len(box))(*[1] * len(box))
        self._known: dict[int, bytes] = {}

    def at(self, address: int) -> bytes:
        """The description of the tensor at this address."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[address] = self._encode(address)
        return found

    def _encode(self, address: int) -> bytes:
        memory = ctypes.create_string_buffer(DESCRIPTOR_BYTES + DESCRIPTOR_ALIGNMENT)
        start = -(-ctypes.addressof(memory) // DESCRIPTOR_ALIGNMENT) * DESCRIPTOR_ALIGNMENT
        status = _encoder()(
            start, self._element, self._rank, address, self._sizes, self._strides, self._box, self._steps,
            NOT_INTERLEAVED, self._swizzle, PROMOTE_L2_128, FILL_ZERO,
        )  # fmt: skip
        if status:
            sizes, strides = list(self._sizes), list(self._strides)
            raise InternalError(f"the driver cannot describe a tensor of sizes {sizes} and strides {strides}: {status}")
        return ctypes.string_at(start, DESCRIPTOR_BYTES)


@cache
def _encoder() -> Any:
    function = driver().library.cuTensorMapEncodeTiled
    pointer, number = ctypes.c_void_p, ctypes.c_uint32
    function.argtypes = [pointer, number, number, ctypes.c_uint64, *[pointer] * 4, *[number] * 4]
    function.restype = ctypes.c_int
    return function


def box_of(kind: str) -> Box:
    """The tiles in which an argument of this type is moved."""
    return tuple(int(size) for size in kind[kind.index("[") + 1 : kind.index("]")].split(","))

"""Pointers into global memory: loads, stores and atomics through a mask, never beyond the tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.gluon.machine import Fault, current, here
from tests.gluon.values import BY_ARRAY, BY_NAME, Array, Dtype, Tensor, check_shape, tensor


@dataclass(frozen=True)
class PointerType:
    """The type of a pointer."""

    element_ty: Dtype


class Pointer:
    """Pointers to elements of a tensor, an argument of a kernel: `base` is a dense numpy array.

    float32 stands for the 16-bit types, which `dtype` names.
    """

    __array_priority__ = 1000

    def __init__(self, base: Array, dtype: str | None = None, offsets: Array = np.int64(0)) -> None:  # noqa: B008
        if not base.flags.c_contiguous:
            raise Fault("type", "a pointer needs a dense array")
        self.base = base.reshape(-1)
        self.element = BY_NAME[dtype] if dtype else BY_ARRAY[base.dtype]
        self.offsets = offsets

    @property
    def dtype(self) -> PointerType:
        return PointerType(self.element)

    @property
    def type(self) -> Pointer:
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.offsets))

    @property
    def handle(self) -> Pointer:
        return self

    def __add__(self, other: Any) -> Pointer:
        offset = tensor(other)
        if offset.dtype.is_float:
            raise Fault("type", f"a pointer is moved by {offset.dtype.name} {here()}")
        return Pointer(self.base, self.element.name, self.offsets + offset.values.astype(np.int64))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Pointer:
        return self.__add__(-tensor(other))

    def __getitem__(self, key: Any) -> Pointer:
        return Pointer(self.base, self.element.name, self.offsets[key])

    def aim(self, mask: Any, shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Offsets and mask in their common shape; masked offsets are 0. Raises Fault beyond the tensor."""
        valid = tensor(True if mask is None else mask).values
        everywhere = np.broadcast_shapes(self.shape, np.shape(valid), shape)
        offsets, valid = np.broadcast_to(self.offsets, everywhere), np.broadcast_to(valid, everywhere)
        wrong = valid & ((offsets < 0) | (offsets >= self.base.size))
        if wrong.any():
            raise Fault("bounds", f"element {offsets[wrong].flat[0]} of {self.base.size} is accessed {here()}")
        return np.where(valid, offsets, 0), valid


def load(pointer: Pointer, mask: Any = None, other: Any = None, **hints: object) -> Tensor:
    """The elements, and `other` where the mask forbids them; without it, what no kernel may rely on."""
    offsets, valid = pointer.aim(mask)
    values = pointer.base[offsets] if pointer.base.size else np.zeros(offsets.shape, pointer.base.dtype)
    rest = tensor(_undefined(pointer.element) if other is None else other).values
    return Tensor(pointer.element.hold(np.where(valid, values, rest)), pointer.element)


def _undefined(dtype: Dtype) -> float | int:
    return float("nan") if dtype.is_float else 0x5A5A5A5A & (2 ** (dtype.primitive_bitwidth - 1) - 1)


def store(pointer: Pointer, value: Any, mask: Any = None, **hints: object) -> None:
    """Write the elements that the mask allows."""
    held = pointer.element.hold(tensor(value).values)
    offsets, valid = pointer.aim(mask)
    if np.ndim(held):
        check_shape(np.broadcast_shapes(offsets.shape, held.shape), offsets.shape, "a store")
    pointer.base[offsets[valid]] = np.broadcast_to(held, offsets.shape)[valid]


def atomic(function: Callable[[Array, Array], Array]) -> Callable[..., Tensor]:
    """An atomic operation, which returns what was there before."""

    def apply(pointer: Pointer, value: Any, mask: Any = None, **hints: object) -> Tensor:
        current().machine.pause()
        held = pointer.element.hold(tensor(value).values)
        offsets, valid = pointer.aim(mask, np.shape(held))
        before = np.zeros(offsets.shape, pointer.base.dtype)
        values = np.broadcast_to(held, offsets.shape)
        for place in np.ndindex(offsets.shape):
            if valid[place]:
                before[place] = pointer.base[offsets[place]]
                pointer.base[offsets[place]] = function(before[place], values[place])
        return Tensor(before[()], pointer.element)

    return apply

"""Whether captured tensors are still what they were: the same tensors, never written since.

Nothing here keeps a tensor alive. A tensor counts as the same while its object lives (for a view: the tensor of which
it is a view), with the same memory and layout. Changes in place are those that torch counts; writes behind its back,
through `.data` or a NumPy array that shares the memory, are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True, slots=True)
class Watch:
    """Captured tensors at one moment, held weakly."""

    owners: tuple[weakref.ref[Tensor], ...]
    memories: tuple[Any, ...]
    marks: tuple[tuple[Any, ...], ...]

    def holds(self, captures: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged."""
        if self.marks != tuple(map(_mark, captures)):
            return False
        return all(
            owner() is _owner(capture) and not memory.expired() and memory.cdata == _memory(capture).cdata
            for owner, memory, capture in zip(self.owners, self.memories, captures, strict=True)
        )


def watch(captures: Sequence[Tensor]) -> Watch | None:
    """The tensors as they are now; None where torch does not count writes."""
    if any(capture.is_inference() for capture in captures):
        return None
    owners = tuple(weakref.ref(_owner(capture)) for capture in captures)
    return Watch(owners, tuple(map(_memory, captures)), tuple(map(_mark, captures)))


def _owner(capture: Tensor) -> Tensor:
    """The tensor that has the count of writes: each `x.data` begins a new one at 0, each view shares its base's."""
    base = capture._base if capture._is_view() else None
    return capture if base is None else base


def _memory(capture: Tensor) -> Any:
    return StorageWeakRef(capture.untyped_storage())  # type: ignore[no-untyped-call]  # torch's


def _mark(capture: Tensor) -> tuple[Any, ...]:
    """What tells tensors in the same memory apart, and how often this one was written."""
    version = -1 if capture.is_inference() else capture._version
    layout = capture.dtype, capture.storage_offset(), tuple(capture.shape), capture.stride()
    return (version, capture.is_neg(), *layout)

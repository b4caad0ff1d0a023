"""Shared memory that knows who may read and write it, tensors in global memory, and what the TMA moves between them.

Every access to shared memory leaves a note. A later one that overlaps must know of it, by barriers; an access that is
still under way is known to nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tests.gluon.barriers import Mbarrier
from tests.gluon.machine import Clock, Fault, Partition, Program, current, here
from tests.gluon.values import BY_NAME, INT64, Array, Dtype, Flaw, Tensor, check_shape, tensor

NOT_YET = math.inf


@dataclass(eq=False)
class Access:
    """A read or a write of shared memory: known to a clock that has its actor at `time` or later."""

    view: Array
    kind: Literal["read", "write"]
    actor: Partition | Mbarrier
    what: str
    where: str
    time: float = NOT_YET
    fenced: bool = True

    def known(self, clock: Clock) -> bool:
        return clock.get(self.actor, 0) >= self.time

    def overlaps(self, view: Array) -> bool:
        return bool(np.may_share_memory(self.view, view)) and bool(np.shares_memory(self.view, view))

    def describe(self) -> str:
        state = "is under way" if self.time == NOT_YET else "is not known to be over"
        return f"{self.what} {self.where} {state}"


@dataclass(eq=False)
class Allocation:
    """Memory behind any number of views; `written` says which elements have ever been."""

    dtype: Dtype
    values: Array
    written: Array
    name: str = ""
    accesses: list[Access] = field(default_factory=list)

    def note(self, access: Access) -> Access:
        """Keep an access; a write makes those before it in the same place superfluous."""
        self.accesses = [other for other in self.accesses if not _replaces(access, other)]
        self.accesses.append(access)
        return access


def _replaces(access: Access, other: Access) -> bool:
    """Whether who knows of `access` need not be asked about `other`."""
    if other.time == NOT_YET:
        return False
    view, earlier = access.view, other.view
    start, first = _address(view), _address(earlier)
    if access.kind == "read" and (other.kind == "write" or other.actor is not access.actor):
        return False
    if (start, view.shape, view.strides) == (first, earlier.shape, earlier.strides):
        return True
    dense = view.flags.c_contiguous and earlier.flags.c_contiguous
    return dense and start <= first and first + earlier.nbytes <= start + view.nbytes


def _address(view: Array) -> int:
    return int(view.__array_interface__["data"][0])


class Shared:
    """A view of shared memory, with the methods of Gluon's shared_memory_descriptor."""

    def __init__(self, allocation: Allocation, values: Array, written: Array, path: str = "") -> None:
        self.allocation = allocation
        self.values = values
        self.written = written
        self.path = path

    @property
    def name(self) -> str:
        return (self.allocation.name or "shared memory") + self.path

    @property
    def dtype(self) -> Dtype:
        return self.allocation.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def handle(self) -> Shared:
        return self

    def index(self, i: Any) -> Shared:
        position = int(i)
        if not 0 <= position < self.values.shape[0]:
            raise Fault("bounds", f"index {position} of {self.values.shape[0]} in {self.name} {here()}")
        path = f"{self.path}[{position}]"
        return Shared(self.allocation, self.values[position], self.written[position], path)

    def slice(self, start: int, length: int, dim: int = 0) -> Shared:
        if start < 0 or start + length > self.values.shape[dim]:
            raise Fault("bounds", f"slice {start}:{start + length} of {self.name} {here()}")
        key = (slice(None),) * dim + (slice(start, start + length),)
        return Shared(self.allocation, self.values[key], self.written[key], self.path)

    def permute(self, order: list[int]) -> Shared:
        return Shared(self.allocation, self.values.transpose(order), self.written.transpose(order), self.path)

    def reshape(self, shape: list[int]) -> Shared:
        values, written = self.values.reshape(shape), self.written.reshape(shape)
        if not np.may_share_memory(values, self.values):
            raise Fault("unmodelled", f"a reshape of {self.name} that moves elements {here()}")
        return Shared(self.allocation, values, written, self.path)

    def _reinterpret(self, dtype: Dtype, shape: list[int], layout: object) -> Shared:
        if dtype is not self.dtype:
            raise Fault("unmodelled", f"{self.name} is reinterpreted as {dtype.name} {here()}")
        return self.reshape(shape)

    def load(self, layout: object = None) -> Tensor:
        me = current()
        me.machine.pause()
        flaw = self.read("load", asynchronous=False)
        self.allocation.note(Access(self.values, "read", me, f"a load of {self.name}", here(), me.now))
        return Tensor(self.values.copy(), self.dtype, flaw)

    def store(self, value: Tensor) -> None:
        me = current()
        me.machine.pause()
        check_shape(value.shape, self.shape, f"a store to {self.name}")
        if value.dtype is not self.dtype:
            raise Fault("type", f"{value.dtype.name} is stored to {self.name} of {self.dtype.name} {here()}")
        access = Access(self.values, "write", me, f"a store to {self.name}", here(), me.now, fenced=False)
        self.write(access)
        me.unfenced.append(access)
        self.values[...] = value.values
        self.written[...] = True

    def _keep_alive(self) -> None:
        """Nothing: allocations of the simulator never die."""

    def write(self, access: Access) -> None:
        """Note a write. Raises Fault if the running partition does not know that all before it is over."""
        clock = current().clock
        for other in self.allocation.accesses:
            if not other.known(clock) and other.overlaps(self.values):
                raise Fault("overwrite", f"{access.what} {access.where} while {other.describe()}")
        self.allocation.note(access)

    def read(self, what: str, asynchronous: bool) -> Flaw | None:
        """Check a read; a flaw if nobody has written here, which matters only if the values are used."""
        clock = current().clock
        for other in self.allocation.accesses:
            if other.kind == "read" or not other.overlaps(self.values):
                continue
            if not other.known(clock):
                raise Fault("unordered", f"{what} of {self.name} {here()} while {other.describe()}")
            if asynchronous and not other.fenced:
                raise Fault("fence", f"{what} of {self.name} {here()} sees no fence after {other.what} {other.where}")
        if self.written.all():
            return None
        return Flaw("uninitialised", f"what a {what} read from {self.name}, where nothing was written, {here()}")


@dataclass(frozen=True)
class BlockType:
    """What a descriptor moves at a time."""

    shape: list[int]
    element_ty: Dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.element_ty.itemsize


class Descriptor:
    """A tensor in global memory as the TMA sees it: an argument of a kernel.

    `base` is a numpy array of any strides with a dense last dimension; float32 stands for the 16-bit types.
    """

    def __init__(self, base: Array, block_shape: list[int], dtype: str, layout: object = None) -> None:
        self.base = base
        self.block_shape = [int(size) for size in block_shape]
        self.dtype = BY_NAME[dtype]
        self.layout = layout
        self._check()

    def _check(self) -> None:
        size, stored = self.dtype.itemsize, self.base.itemsize
        if len(self.block_shape) != self.base.ndim or not 1 <= self.base.ndim <= 5:
            raise Fault("type", f"a block {self.block_shape} of a tensor of shape {self.base.shape}")
        if any(not 1 <= n <= 256 or n & (n - 1) for n in self.block_shape) or self.block_shape[-1] * size < 16:
            raise Fault("type", f"the TMA has no block of shape {self.block_shape} of {self.dtype.name}")
        strides = [stride // stored * size for stride in self.base.strides]
        if strides[-1] != size or any(stride % 16 for stride in strides[:-1]):
            raise Fault("type", f"the TMA needs strides of 16 bytes and a dense last dimension, not {strides}")

    @property
    def handle(self) -> Descriptor:
        return self

    @property
    def block_type(self) -> BlockType:
        return BlockType(self.block_shape, self.dtype)

    @property
    def shape(self) -> tuple[Tensor, ...]:
        return tuple(tensor(size) for size in self.base.shape)

    @property
    def strides(self) -> tuple[Tensor, ...]:
        return tuple(tensor(stride // self.base.itemsize).to(INT64) for stride in self.base.strides)

    def box(self, coordinates: list[Any]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a block lies in the tensor and which part of the block that is, both clipped."""
        inside, part = [], []
        for coordinate, size, limit in zip(coordinates, self.block_shape, self.base.shape, strict=True):
            first = int(coordinate)
            start, end = min(max(first, 0), limit), max(min(first + size, limit), 0)
            inside.append(slice(start, max(end, start)))
            part.append(slice(start - first, max(end, start) - first))
        return tuple(inside), tuple(part)


@dataclass(eq=False)
class Load:
    """The TMA brings a block to shared memory, zero beyond the tensor, and then its bytes to a barrier."""

    descriptor: Descriptor
    coordinates: list[Any]
    barrier: Mbarrier
    target: Shared
    access: Access
    program: Program
    pace: float = 1.0

    def complete(self) -> None:
        inside, part = self.descriptor.box(self.coordinates)
        self.target.values[...] = 0
        self.target.values[part] = self.descriptor.base[inside]
        self.target.written[...] = True
        self.access.time = self.barrier.receive(self.descriptor.block_type.nbytes, self.describe())

    def describe(self) -> str:
        return f"{self.access.what} {self.access.where}"


@dataclass(eq=False)
class Store:
    """The TMA writes a block of shared memory to a tensor, or adds it there, clipped."""

    descriptor: Descriptor
    coordinates: list[Any]
    source: Shared
    access: Access
    adds: bool
    program: Program
    done: bool = False
    pace: float = 1.0

    def complete(self) -> None:
        inside, part = self.descriptor.box(self.coordinates)
        if self.adds:
            self.descriptor.base[inside] += self.source.values[part]
        else:
            self.descriptor.base[inside] = self.source.values[part]
        self.done = True

    def describe(self) -> str:
        return f"{self.access.what} {self.access.where}"


def start_load(descriptor: Descriptor, coordinates: list[Any], barrier: Mbarrier, target: Shared) -> None:
    """Begin a load; from now on what lies in its target is undefined."""
    me = current()
    me.machine.pause()
    check_shape(target.shape, descriptor.block_shape, f"a TMA load to {target.name}")
    _check_dtype(descriptor, target)
    if not barrier.fenced:
        raise Fault("fence", f"a TMA load with {barrier.name}, which was made without a fence behind it {here()}")
    access = Access(target.values, "write", barrier, f"a TMA load to {target.name}", here())
    target.write(access)
    me.machine.start(Load(descriptor, coordinates, barrier, target, access, me.program))


def start_store(descriptor: Descriptor, coordinates: list[Any], source: Shared, adds: bool = False) -> None:
    """Begin a store, or a reduction by addition; the source must stay as it is until store_wait."""
    me = current()
    me.machine.pause()
    check_shape(source.shape, descriptor.block_shape, f"a TMA store from {source.name}")
    _check_dtype(descriptor, source)
    flaw = source.read("TMA store", asynchronous=True)
    if flaw is not None:
        raise Fault(flaw.kind, flaw.reason)
    access = source.allocation.note(Access(source.values, "read", me, f"a TMA store from {source.name}", here()))
    store = Store(descriptor, coordinates, source, access, adds, me.program)
    me.stores.append(store)
    me.machine.start(store)


def wait_for_stores(pending: int) -> None:
    """Until all but the last `pending` stores of this partition have read their sources."""
    me = current()
    due = me.stores[: max(len(me.stores) - pending, 0)]
    me.machine.pause(lambda: f"{len(due)} TMA stores", lambda: all(store.done for store in due))
    for store in due:
        store.access.time = me.now
    me.stores = me.stores[len(due) :]


def _check_dtype(descriptor: Descriptor, memory: Shared) -> None:
    if descriptor.dtype is not memory.dtype:
        found = f"{descriptor.dtype.name} in the tensor, {memory.dtype.name} in {memory.name}"
        raise Fault("type", f"a TMA transfer between two types: {found} {here()}")

"""Which tiles a Triton pass visits: tables that a kernel fills on the device, remembered while nothing changed.

A mask that reads captured tensors is judged by their minima and maxima over tiles, computed once per position. Nothing
here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from attncc.analysis.statistics import Statistic
from attncc.emit.triton.program import TritonProgram
from attncc.emit.triton.visits import TABLE_POINTERS, table_axes
from attncc.runtime.triton_kernel import Kernel
from attncc.runtime.triton_values import Values, pointer

#: Tables that a pass remembers; a training step with one mask per batch needs one.
MAX_TABLES: Final = 16
SIZES: Final = ("batch", "heads", "q_len", "kv_len")


@dataclass(frozen=True, slots=True)
class Lister:
    """What fills the tables of one program: its kernels by pass, and what torch computes for them."""

    program: TritonProgram
    kernels: Mapping[str, Kernel]
    compute: Callable[..., Sequence[Tensor]] | None
    device: torch.device

    def list_tiles(self, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values) -> Filled:
        """Counts and indices of partial and full tiles, for each tile that a pass owns."""
        kernel = self.kernels[f"list_{name}"]
        batch, heads, q_len, kv_len = (values[size] for size in SIZES)
        by_batch, by_head = table_axes(self.program.variant.test)
        counts = -(-q_len // kernel.tile_q), -(-kv_len // kernel.tile_kv)
        owned, walked = counts if name != "backward_kv" else (counts[1], counts[0])
        rows = (batch if by_batch else 1) * (heads if by_head else 1) * owned
        shapes = ((rows,), (rows, walked)) * 2
        tensors = tuple(torch.empty(shape, dtype=torch.int32, device=self.device) for shape in shapes)
        own = dict(zip(TABLE_POINTERS, map(pointer, tensors), strict=True))
        judged = self.statistics(kernel, captures, parameters, values)
        kernel.run(rows, {**values, **own, **judged, "table_heads": heads if by_head else 1})
        return Filled(own, tensors)

    def statistics(
        self, kernel: Kernel, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> Values:
        """What tile tests need of captured tensors, for the tiles of a kernel."""
        statistics = self.program.variant.test.statistics
        if not statistics or self.compute is None:
            return {}
        sizes = [values[size] for size in SIZES]
        found = self.compute(captures, parameters, *sizes, self.device)
        filled: Values = {"keep": []}
        for statistic, each in zip(statistics, found, strict=True):
            tile = kernel.tile_q if statistic.axis == "q" else kernel.tile_kv
            length = values["q_len"] if statistic.axis == "q" else values["kv_len"]
            made = statistic_values(statistic, each, tile, length)
            filled |= made | {"keep": [*filled["keep"], *made["keep"]]}
        return filled

    @property
    def reads_captures(self) -> bool:
        """Whether the tiles depend on captured values."""
        lists = next(iter(self.program.lists.values()))
        return any(role.kind in ("capture", "statistic_min") for role in lists.roles)


@dataclass(frozen=True, slots=True)
class Filled:
    """A table: its tensors, and the values by which kernels find them."""

    values: Values
    tensors: tuple[Tensor, ...]
    captures: tuple[Any, ...] = ()
    versions: tuple[int, ...] = ()

    def serves(self, captures: Sequence[Tensor], versions: tuple[int, ...] | None) -> bool:
        """Whether these are the captures from which it was made, unchanged."""
        return versions == self.versions and all(
            not known[0].expired() and known[0].cdata == now[0].cdata and known[1:] == now[1:]
            for known, now in zip(self.captures, map(_storage, captures), strict=True)
        )


@dataclass
class Tables:
    """The tables that a pass remembers, by sizes, parameters, and the captures that they were made from."""

    filled: dict[Any, Filled] = field(default_factory=dict)

    def find(
        self, lister: Lister, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> Values:
        """The table of a pass; filled if it is not known, or if a capture was written since."""
        key = (lister.program.variant.aligned, name, *(values[size] for size in SIZES), *parameters)
        reads = lister.reads_captures
        watched = captures if reads else ()
        versions = _versions(watched)
        capturing = lister.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        known = self.filled.get(key)
        if known is not None and not (reads and capturing) and known.serves(watched, versions):
            return known.values
        made = lister.list_tiles(name, captures, parameters, values)
        if versions is not None and not capturing:
            if len(self.filled) >= MAX_TABLES:
                self.filled.pop(next(iter(self.filled)), None)
            storages = tuple(map(_storage, watched))
            self.filled[key] = Filled(made.values, made.tensors, storages, versions)
        return made.values


def _storage(capture: Tensor) -> tuple[Any, ...]:
    """What tells a capture from others: its memory, held weakly so that no later tensor can take its place, and how it
    is laid out there. Python's tensors come and go, and are no guide."""
    memory = StorageWeakRef(capture.untyped_storage())  # type: ignore[no-untyped-call]  # torch's
    return memory, capture.dtype, capture.storage_offset(), tuple(capture.shape), capture.stride()


def _versions(captures: Sequence[Tensor]) -> tuple[int, ...] | None:
    """How often each capture was written in place; None where torch does not count."""
    if any(capture.is_inference() for capture in captures):
        return None
    return tuple(capture._version for capture in captures)


def statistic_values(statistic: Statistic, found: Tensor, tile: int, length: int) -> Values:
    """Minima and maxima over tiles of an expression's values, which broadcast to [B, Hq, Lq, 1] or [B, Hq, 1, Lkv]."""
    number, axis = statistic.number, statistic.axis
    line = found.reshape((1,) * (4 - found.dim()) + tuple(found.shape))
    line = line.squeeze(3 if axis == "q" else 2) if line.shape[3 if axis == "q" else 2] == 1 else line
    line = line.expand(*line.shape[:2], length)
    count = -(-length // tile)
    lost = line.isnan() if line.is_floating_point() else None
    lows, highs = _block_bounds(line, count, tile, lost)
    values: Values = {f"statistic_min:{number}:0": pointer(lows), f"statistic_max:{number}:0": pointer(highs)}
    values["keep"] = [lows, highs]
    if lost is not None:
        padded = torch.nn.functional.pad(lost, (0, count * tile - length))
        nan = padded.view(*line.shape[:2], count, tile).any(-1)
        values[f"statistic_nan:{number}:0"] = pointer(nan)
        values["keep"].append(nan)
    for d in range(2):
        values[f"statistic_stride:{number}:{d}"] = 0 if lows.shape[d] == 1 else lows.stride(d)
    return values


def _block_bounds(line: Tensor, count: int, tile: int, lost: Tensor | None) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each block of the last dimension; NaN takes no part, the last block may be short."""
    kind = line.dtype
    wide = line.to(torch.int64) if not kind.is_floating_point else line.to(torch.float32)
    ends = (torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max) if lost is None else (-torch.inf, torch.inf)
    ends = ends if kind != torch.bool else (0, 1)
    found = []
    for end, reduce in ((ends[1], torch.amin), (ends[0], torch.amax)):
        held = wide if lost is None else wide.masked_fill(lost, end)
        padded = torch.nn.functional.pad(held, (0, count * tile - line.shape[-1]), value=end)
        best = reduce(padded.view(*line.shape[:2], count, tile), -1)
        found.append(best.to(torch.bool) if kind == torch.bool else best)
    return found[0], found[1]

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

from attncc.runtime.outline import OWN_KEYS, Mark, Outline
from attncc.runtime.triton_kernel import Kernel
from attncc.runtime.triton_values import Values, pointer
from attncc.runtime.watch import Watch, watch

#: Tables that a pass remembers; a training step with one mask per batch needs one.
MAX_TABLES: Final = 16
#: The tensors of a table, in the order in which kernels take them.
TABLE_POINTERS: Final = ("partial_count_ptr", "partial_index_ptr", "full_count_ptr", "full_index_ptr")
SIZES: Final = ("batch", "heads", "q_len", "kv_len")


@dataclass(frozen=True, slots=True)
class Lister:
    """What fills the tables of one program: its kernels by pass, and what torch computes for them."""

    outline: Outline
    kernels: Mapping[str, Kernel]
    compute: Callable[..., Sequence[Tensor]] | None
    device: torch.device

    def list_tiles(self, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values) -> Filled:
        """Counts and indices of partial and full tiles, for each tile that a pass owns."""
        kernel = self.kernels[f"list_{name}"]
        batch, heads, q_len, kv_len = (values[size] for size in SIZES)
        by_batch, by_head = self.outline.by_batch, self.outline.by_head
        counts = -(-q_len // kernel.tile_q), -(-kv_len // kernel.tile_kv)
        owned, walked = counts if name not in OWN_KEYS else (counts[1], counts[0])
        rows = (batch if by_batch else 1) * (heads if by_head else 1) * owned
        shapes = ((rows,), (rows, walked)) * 2
        tensors = tuple(torch.empty(shape, dtype=torch.int32, device=self.device) for shape in shapes)
        own = dict(zip(TABLE_POINTERS, map(pointer, tensors), strict=True))
        given = {**values, **own, "table_heads": heads if by_head else 1}
        known = self.statistics(kernel, captures, parameters, values)
        ascend = ascending(known, "q" if name in OWN_KEYS else "kv", rows // owned, given["table_heads"])
        filled = {**given, **values_of(known), "ascending_ptr": None if ascend is None else pointer(ascend)}
        kernel.run(rows, filled)
        if f"refine_{name}" in self.outline.lists:
            self.kernels[f"list_refine_{name}"].run(rows, given)
        return Filled(own, tensors)

    def statistics(
        self, kernel: Kernel, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> list[Judged]:
        """What tile tests need of captured tensors, for the tiles of a kernel."""
        marks = self.outline.marks
        if not marks or self.compute is None:
            return []
        found = self.compute(captures, parameters, *(values[size] for size in SIZES), self.device)
        sides = {"q": (kernel.tile_q, values["q_len"]), "kv": (kernel.tile_kv, values["kv_len"])}
        return [judged(mark, each, *sides[mark.axis]) for mark, each in zip(marks, found, strict=True)]


@dataclass(frozen=True, slots=True)
class Filled:
    """A table: its tensors, the values by which kernels find them, and the captures from which it was made."""

    values: Values
    tensors: tuple[Tensor, ...]
    seen: Watch | None = None


@dataclass
class Tables:
    """The tables that a pass remembers, by sizes, parameters, and the captures that they were made from."""

    filled: dict[Any, Filled] = field(default_factory=dict)

    def find(
        self, lister: Lister, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> Values:
        """The table of a pass; filled if it is not known, or if a capture was written since."""
        key = (lister.outline.aligned, name, *(values[size] for size in SIZES), *parameters)
        reads = lister.outline.reads_captures
        watched = captures if reads else ()
        capturing = lister.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        known = self.filled.get(key)
        if known is not None and not (reads and capturing) and known.seen is not None and known.seen.holds(watched):
            return known.values
        seen = watch(watched)
        made = lister.list_tiles(name, captures, parameters, values)
        if seen is not None and not capturing:
            if len(self.filled) >= MAX_TABLES:
                self.filled.pop(next(iter(self.filled)), None)
            self.filled[key] = Filled(made.values, made.tensors, seen)
        return made.values


@dataclass(frozen=True, slots=True)
class Judged:
    """A statistic over tiles, [B or 1, Hq or 1, tiles]: minimum, maximum, for a Float whether any is NaN."""

    mark: Mark
    low: Tensor
    high: Tensor
    lost: Tensor | None

    @property
    def values(self) -> Values:
        """The arguments of kernels."""
        number, strides = self.mark.number, self.low.stride()
        values: Values = {
            f"statistic_min:{number}:0": pointer(self.low),
            f"statistic_max:{number}:0": pointer(self.high),
        }
        if self.lost is not None:
            values[f"statistic_nan:{number}:0"] = pointer(self.lost)
        for d in range(2):
            values[f"statistic_stride:{number}:{d}"] = 0 if self.low.shape[d] == 1 else strides[d]
        return values


def judged(mark: Mark, found: Tensor, tile: int, length: int) -> Judged:
    """Minima and maxima over tiles of an expression's values, which broadcast to [B, Hq, Lq, 1] or [B, Hq, 1, Lkv]."""
    axis = mark.axis
    line = found.reshape((1,) * (4 - found.dim()) + tuple(found.shape))
    line = line.squeeze(3 if axis == "q" else 2) if line.shape[3 if axis == "q" else 2] == 1 else line
    line = line.expand(*line.shape[:2], length)
    count = -(-length // tile)
    lost = line.isnan() if line.is_floating_point() else None
    low, high = _block_bounds(line, count, tile, lost)
    if lost is None:
        return Judged(mark, low, high, None)
    padded = torch.nn.functional.pad(lost, (0, count * tile - length))
    return Judged(mark, low, high, padded.view(*line.shape[:2], count, tile).any(-1))


def values_of(found: Sequence[Judged]) -> Values:
    """The arguments by which kernels read statistics; they hold while these are kept."""
    return {key: value for each in found for key, value in each.values.items()}


def ascending(found: Sequence[Judged], axis: str, tables: int, heads: int) -> Tensor | None:
    """For each of `tables` whether all statistics of an axis never fall from one tile to the next, bool on the device;
    None where there are none. Nothing waits for it: the kernel that lists tiles reads it."""
    flags: Tensor | None = None
    for each in (judged for judged in found if judged.mark.axis == axis):
        for ends in (each.low, each.high):
            rises = (ends[..., 1:] >= ends[..., :-1]).all(-1)
            flags = rises if flags is None else flags & rises
    return None if flags is None else flags.expand(tables // heads, heads).contiguous()


def _block_bounds(line: Tensor, count: int, tile: int, lost: Tensor | None) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each block of the last dimension; NaN takes no part, the last block may be short."""
    kind = line.dtype
    wide = line.to(torch.int64) if not kind.is_floating_point else line.to(torch.float32)
    ends = (torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max) if lost is None else (-torch.inf, torch.inf)
    ends = ends if kind != torch.bool else (0, 1)
    missing = (*line.shape[:2], count * tile - line.shape[-1])
    found = []
    for end, reduce in ((ends[1], torch.amin), (ends[0], torch.amax)):
        held = wide if lost is None else wide.masked_fill(lost, end)
        if missing[-1]:  # not `pad`, which takes its value as a float and so turns the largest int into the least
            held = torch.cat([held, held.new_full(missing, end)], -1)
        best = reduce(held.reshape(*line.shape[:2], count, tile), -1)
        found.append(best.to(torch.bool) if kind == torch.bool else best)
    return found[0], found[1]

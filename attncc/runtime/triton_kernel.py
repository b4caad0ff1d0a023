"""One Triton kernel on one device, ready to be launched by the values of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from attncc.runtime import launch, triton_build
from attncc.runtime.descriptors import Box, box_of, descriptor_of
from attncc.runtime.triton_values import key_of

if TYPE_CHECKING:  # a kernel that is found in the cache needs no emitter
    from attncc.emit.triton.program import Emitted

Launch = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A launch, the keys of its arguments in order, and the tile that a program owns.

    `boxes` are the tiles in which it moves the tensors that it takes as descriptions, by key. Up to `persistent_until`
    queries at most `multiprocessors` programs run, which take more than one tile each.
    """

    launch: Launch
    keys: tuple[str, ...]
    tile_q: int
    tile_kv: int
    boxes: Mapping[str, Box] = field(default_factory=dict)
    persistent_until: int = 0
    multiprocessors: int = 0

    def run(self, programs: int, values: Mapping[str, Any]) -> None:
        """Launch programs for that many tiles."""
        self.launch(self.grid(programs, values["q_len"]), *[values[key] for key in self.keys])

    def grid(self, programs: int, q_len: int) -> tuple[int, int, int]:
        """The programs that are started for that many tiles."""
        return (min(programs, self.multiprocessors) if 0 < q_len <= self.persistent_until else programs), 1, 1

    def describe(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The descriptions that the kernel takes of tensors, by the key of the argument.

        A description holds no reference: whoever launches keeps the tensors until then.
        """
        return {key: descriptor_of(tensors[key], box).at(tensors[key].data_ptr()) for key, box in self.boxes.items()}


def make_kernel(emitted: Emitted, device: torch.device) -> Kernel:
    """Build and load a kernel; on the CPU it runs in Triton's interpreter."""
    keys = tuple(map(key_of, emitted.roles))
    schedule = emitted.schedule
    # What lists the tiles of a pass has its schedule too, and a program for each row.
    until: int = getattr(schedule, "persistent_until", 0) if emitted.kernel.gluon else 0
    tiles = (schedule.tile_q, schedule.tile_kv)
    if device.type == "cpu":
        types = [argument.type for argument in emitted.kernel.run_time]
        return _launched(triton_build.interpret(emitted.kernel), types, keys, tiles, until, device)
    built = triton_build.build(emitted.kernel, launch.target_of(_index(device)))
    return load_kernel(built, keys, tiles, until, device)


def load_kernel(
    built: triton_build.Built,
    keys: tuple[str, ...],
    tiles: tuple[int, int],
    persistent_until: int,
    device: torch.device,
) -> Kernel:
    """A built kernel on a GPU, with the keys of its arguments and the tile that a program owns."""
    made = launch.launcher(built, _index(device))
    return _launched(made, built.arguments, keys, tiles, persistent_until, device)


def _launched(
    made: Launch,
    types: Sequence[str],
    keys: tuple[str, ...],
    tiles: tuple[int, int],
    persistent_until: int,
    device: torch.device,
) -> Kernel:
    """A launch with the boxes of its descriptions, and as many programs as stay on the device."""
    boxes = {key: box_of(kind) for key, kind in zip(keys, types, strict=True) if triton_build.is_descriptor(kind)}
    count = torch.cuda.get_device_properties(device).multi_processor_count if persistent_until else 0
    return Kernel(made, keys, *tiles, boxes, persistent_until, count)


def _index(device: torch.device) -> int:
    index: int | None = device.index
    return torch.cuda.current_device() if index is None else index

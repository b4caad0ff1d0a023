"""One Triton kernel on one device, ready to be launched by the values of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attncc.emit.triton.program import Emitted
from attncc.runtime import launch, triton_build
from attncc.runtime.descriptors import Box, box_of, descriptor_of
from attncc.runtime.triton_values import key_of
from attncc.schedule.gluon import GluonSchedule

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
    if device.type == "cpu":
        made: Launch = triton_build.interpret(emitted.kernel)
    else:
        index: int | None = device.index
        index = torch.cuda.current_device() if index is None else index
        made = launch.launcher(triton_build.build(emitted.kernel, launch.target_of(index)), index)
    boxes = {
        key: box_of(argument.type)
        for key, argument in zip(keys, emitted.kernel.run_time, strict=True)
        if triton_build.is_descriptor(argument.type)
    }
    # What lists the tiles of a pass has its schedule too, and a program for each row.
    until = schedule.persistent_until if isinstance(schedule, GluonSchedule) and emitted.kernel.gluon else 0
    count = torch.cuda.get_device_properties(device).multi_processor_count if until else 0
    return Kernel(made, keys, schedule.tile_q, schedule.tile_kv, boxes, until, count)

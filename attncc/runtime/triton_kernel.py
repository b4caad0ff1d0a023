"""One Triton kernel on one device, ready to be launched by the values of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attncc.emit.triton.program import Emitted
from attncc.runtime import launch, triton_build
from attncc.runtime.triton_values import key_of

Launch = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A launch, the keys of its arguments in order, and the tile that a program owns."""

    launch: Launch
    keys: tuple[str, ...]
    tile_q: int
    tile_kv: int

    def run(self, programs: int, values: Mapping[str, Any]) -> None:
        """Launch that many programs."""
        self.launch((programs, 1, 1), *[values[key] for key in self.keys])


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
    return Kernel(made, keys, schedule.tile_q, schedule.tile_kv)

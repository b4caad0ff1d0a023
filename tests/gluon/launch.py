"""Kernels of the runtime in the simulator: what would be launched on a Hopper GPU runs on tensors of the CPU.

Within `simulated` the runtime lowers for sm_90, describes tensors to the simulated TMA, and calls `simulate`. Tensors
are copied to numpy, and what a kernel wrote is copied back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from attncc.api import warm
from attncc.emit.kernel import TritonKernel
from attncc.emit.triton.program import TritonProgram
from attncc.runtime import op, triton_build, triton_fit, triton_kernel
from attncc.schedule import gluon
from attncc.schedule.target import Target
from tests.gluon.simulator import Descriptor, Pointer, simulate

#: A small device: persistent programs take several tiles each.
DEVICE = SimpleNamespace(multi_processor_count=3)
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Described:
    """A tensor that a kernel takes as a description, in place of the driver's."""

    tensor: Tensor
    box: tuple[int, ...]

    def at(self, address: object) -> Described:
        return self


@dataclass
class Copies:
    """Copies of tensors in numpy, each made once for a launch, and what they held before it."""

    made: dict[tuple[Any, ...], tuple[Tensor, Array, Array]] = field(default_factory=dict)

    def of(self, tensor: Tensor) -> Array:
        """The copy of all memory that a tensor of any strides spans; 16-bit floats become float32."""
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        flat = tensor.detach().as_strided((span if tensor.numel() else 0,), (1,))
        key = (flat.data_ptr(), flat.shape, flat.dtype)
        if key not in self.made:
            array = (flat.float() if flat.dtype in NAMES else flat).clone().numpy()
            self.made[key] = flat, array, array.copy()
        return self.made[key][1]

    def write_back(self) -> None:
        """Put what has changed into the tensors."""
        for flat, array, before in self.made.values():
            changed = torch.from_numpy(~((array == before) | ((array != array) & (before != before))))
            if bool(changed.any()):
                flat[changed] = torch.from_numpy(array)[changed].to(flat.dtype)


def argument(value: Any, copies: Copies) -> Any:
    """An argument of a launch as the simulator takes it."""
    if isinstance(value, Described):
        tensor = value.tensor
        base = copies.of(tensor)
        strides = [stride * base.itemsize for stride in tensor.stride()]
        view = np.lib.stride_tricks.as_strided(base, tuple(tensor.shape), strides)
        return Descriptor(view, list(value.box), NAMES.get(tensor.dtype, "fp32"))
    if isinstance(value, Tensor):
        return Pointer(copies.of(value), NAMES.get(value.dtype))
    return value


@dataclass(frozen=True)
class Launch:
    """One launch: the arguments as they were before it and after it."""

    kernel: TritonKernel
    grid: tuple[int, int, int]
    before: dict[str, Any]
    after: dict[str, Any]

    def again(self, text: str, *, seed: int = 0, slow: Collection[str] = ()) -> bool:
        """Whether another text of the kernel does the same. Raises Fault as `simulate` does."""
        arguments = deepcopy(self.before)
        simulate(text, self.kernel.entry, self.grid, arguments, seed=seed, slow=slow, warps=self.kernel.num_warps)
        return all(_same(arguments[name], self.after[name]) for name in arguments)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, Descriptor) and found.base.ndim == 3:  # sums, to which programs add in any order
        return bool(np.allclose(found.base, wanted.base, rtol=1e-5, atol=1e-5))
    if isinstance(found, Descriptor | Pointer):
        return bool(np.array_equal(found.base, wanted.base, equal_nan=found.base.dtype.kind == "f"))
    return bool(found == wanted)


@contextmanager
def simulated(
    *, seed: int = 0, slow: Collection[str] = (), settle: Callable[[TritonProgram], TritonProgram] | None = None
) -> Iterator[list[Launch]]:
    """Launch by the simulator; the launches in order. `settle` may choose other schedules."""
    launches: list[Launch] = []

    def interpret(kernel: TritonKernel) -> Callable[..., None]:
        constants = {one.name: one.value for one in kernel.arguments if one.is_constant}

        def launch(grid: tuple[int, int, int], *given: Any) -> None:
            copies = Copies()
            names = [one.name for one in kernel.arguments if not one.is_constant]
            arguments = {n: argument(v, copies) for n, v in zip(names, given, strict=True)} | constants
            before = deepcopy(arguments)
            text, entry = kernel.source.text, kernel.entry
            simulate(text, entry, grid, arguments, seed=seed, slow=slow, warps=kernel.num_warps)
            copies.write_back()
            launches.append(Launch(kernel, grid, before, deepcopy(arguments)))

        return launch

    with (
        mock.patch.object(triton_build, "interpret", interpret),
        mock.patch.object(triton_kernel, "descriptor_of", Described),
        mock.patch.object(triton_fit, "settle", lambda program, *_: settle(program) if settle else program),
        mock.patch.object(warm, "prepare", return_value=None),  # what is prepared would stay with the program
        mock.patch.object(gluon, "FEW_KEYS", 0),  # lengths of tests are short
        mock.patch.object(torch.cuda, "get_device_properties", return_value=DEVICE),
        mock.patch.object(op, "target_of", lambda backend, _: Target(backend, "cpu", "sm_90", gluon=True)),
        mock.patch.dict(op._KERNELS, clear=True),
        mock.patch.dict(op._PASSES, clear=True),
    ):
        yield launches

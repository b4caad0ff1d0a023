"""Built kernels on a device: loaded once, and started with as little work on the host as Python allows.

A launch packs the grid, the stream and all arguments into one block of memory with one call of `struct`, and gives
that block to the driver. Nothing is compiled, nothing is looked up, and no device is synchronised.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from attncc.errors import InternalError, UnsupportedError
from attncc.runtime.driver import INVALID_CONTEXT, Function, Hip, driver
from attncc.runtime.triton_build import (
    DESCRIPTOR,
    DESCRIPTOR_BYTES,
    SIZES,
    Built,
    is_descriptor,
    layout,
    parameters_of,
    rank_of,
    refuse_in_capture,
)
from attncc.schedule.triton import SHARED_LIMITS

#: How `struct` writes a run-time argument.
CODES = {"i1": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q"}
CODES |= {"fp16": "e", "fp32": "f", "fp64": "d"}
#: The driver's launch configuration: grid, block, bytes of shared memory, stream, attributes and their number.
CONFIGURATION = "3I3II4xQQI4x"
CONFIGURATION_SIZE = struct.calcsize("<" + CONFIGURATION)

Grid = tuple[int, int, int]


def target_of(device: int = 0) -> str:
    """The target that kernels for a device are compiled for, such as `sm_90` or `gfx942`."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def shared_limit(target: str) -> int:
    """Bytes of shared memory that one program may have. Raises UnsupportedError for a target that is not listed."""
    if target not in SHARED_LIMITS:
        raise UnsupportedError(f"the shared memory of {target} is not known", hint=f"known: {', '.join(SHARED_LIMITS)}")
    return SHARED_LIMITS[target] * 1024


class Launch:
    """A kernel on one device; call it with a grid and the run-time arguments, in order.

    A pointer argument takes a tensor, an address, or None for a null pointer. The kernel runs on the device's current
    stream. That tensors are on the device, and that promises of divisibility hold, is for the caller to know.
    """

    def __init__(self, built: Built, device: int, function: Function) -> None:
        self.built = built
        self.device = device
        self.registers = function.registers
        self.local_bytes = function.local_bytes
        self._handle = function.handle
        self._threads = built.metadata["num_warps"] * built.metadata["warp_size"]
        self._shared = built.metadata["shared"]
        self._scratch_size = built.metadata["global_scratch_size"]
        self._pointers = tuple(at for at, kind in enumerate(built.arguments) if kind.startswith("*"))
        self._pack = struct.Struct("<" + CONFIGURATION + _argument_format(built.arguments)).pack_into
        self._places = [place.offset for place in layout(built.arguments)]
        self._frames = threading.local()
        self._start = driver().launch
        self._device_now = torch._C._cuda_getDevice
        self._stream_now = torch._C._cuda_getCurrentRawStream

    def __call__(self, grid: Grid, *args: Any) -> None:
        """Start the kernel. Raises TypeError for arguments that it does not take, RuntimeError if the GPU failed."""
        if self._device_now() != self.device:
            with torch.cuda.device(self.device):
                self(grid, *args)
            return
        try:
            values = list(args)
            for at in self._pointers:
                value = values[at]
                if type(value) is not int:
                    values[at] = 0 if value is None else value.data_ptr()
            scratch = self._scratch(grid) if self._scratch_size else None
            hidden = 0 if scratch is None else scratch.data_ptr()
            try:
                buffer, start, places = self._frames.frame
            except AttributeError:
                buffer, start, places = self._frames.frame = self._make_frame()
            stream = self._stream_now(self.device)
            self._pack(buffer, 0, *grid, self._threads, 1, 1, self._shared, stream, 0, 0, *values, hidden, 0)
        except (struct.error, IndexError, AttributeError, TypeError) as error:
            self._complain(grid, args, error)
        if grid[0] and grid[1] and grid[2]:
            status = self._start(start, self._handle, places, None)
            if status:
                self._retry(status, grid, start, places)

    def _make_frame(self) -> tuple[Any, int, int]:
        """This thread's block for arguments: the driver reads it before the launch returns."""
        size = CONFIGURATION_SIZE + self._places[-1] + 8
        buffer = ctypes.create_string_buffer(size)
        start = ctypes.addressof(buffer)
        places = (ctypes.c_void_p * len(self._places))(*(start + CONFIGURATION_SIZE + at for at in self._places))
        self._frames.places = places  # kept alive beside the frame
        return buffer, start, ctypes.addressof(places)

    def _scratch(self, grid: Grid) -> torch.Tensor:
        """Memory of the kernel's own; PyTorch's allocator gives it again only to later work of the same stream."""
        size = grid[0] * grid[1] * grid[2] * self._scratch_size
        return torch.empty(size, dtype=torch.uint8, device=torch.device("cuda", self.device))

    def _retry(self, status: int, grid: Grid, start: int, places: int) -> None:
        """A thread that has not used the GPU before has no context; anything else is an error."""
        if status == INVALID_CONTEXT:
            driver().bind(self.device)
            status = self._start(start, self._handle, places, None)
        if status:
            raise driver().explain(status, f"launching {self.built.name} with grid {grid}")

    def _complain(self, grid: Grid, args: tuple[Any, ...], error: Exception) -> NoReturn:
        given = ", ".join(type(one).__name__ for one in args)
        wanted = ", ".join(self.built.arguments)
        raise TypeError(f"{self.built.name} takes a grid of 3 and ({wanted}), not {grid} and ({given})") from error


class HipLaunch(Launch):
    """The same on an AMD GPU, whose driver takes the configuration as arguments."""

    def __call__(self, grid: Grid, *args: Any) -> None:
        """Start the kernel, as `Launch` does."""
        if self._device_now() != self.device:
            with torch.cuda.device(self.device):
                self(grid, *args)
            return
        try:
            values = list(args)
            for at in self._pointers:
                if type(values[at]) is not int:
                    values[at] = 0 if values[at] is None else values[at].data_ptr()
            try:
                buffer, _, places = self._frames.frame
            except AttributeError:
                buffer, _, places = self._frames.frame = self._make_frame()
            stream = self._stream_now(self.device)
            self._pack(buffer, 0, *grid, self._threads, 1, 1, self._shared, stream, 0, 0, *values, 0, 0)
        except (struct.error, IndexError, AttributeError, TypeError) as error:
            self._complain(grid, args, error)
        if grid[0] and grid[1] and grid[2]:
            status = self._start(self._handle, *grid, self._threads, 1, 1, self._shared, stream, places, None)
            if status:
                raise driver().explain(status, f"launching {self.built.name} with grid {grid}")


def _argument_format(arguments: tuple[str, ...]) -> str:
    """The arguments and the hidden pointers for `struct`, at the places where the kernel expects them."""
    parts, at = [], 0
    for place, code in zip(layout(arguments), _codes(arguments), strict=True):
        parts.append(f"{place.offset - at}x{code}")
        at = place.offset + place.size
    return "".join(parts)


def _codes(arguments: tuple[str, ...]) -> Iterator[str]:
    """How `struct` writes each parameter; sizes and strides behind a descriptor are not read and stay 0."""
    left = iter(parameters_of(arguments))
    for kind in arguments:
        parameter = next(left)
        yield f"{DESCRIPTOR_BYTES}s" if parameter == DESCRIPTOR else CODES.get(parameter, "Q")
        for _ in range(2 * rank_of(kind) if is_descriptor(kind) else 0):
            yield f"{SIZES[next(left)]}x"
    yield from ("Q" for _ in left)


_loaded: dict[tuple[str, int], Launch] = {}
_loading = threading.Lock()


def launcher(built: Built, device: int = 0) -> Launch:
    """A kernel on a device, loaded there once.

    Raises UnsupportedError if it is not loaded and a CUDA graph is captured, or if the device lacks what it takes.
    """
    found = _loaded.get((built.key, device))
    if found is not None:
        return found
    refuse_in_capture(f"the kernel {built.name} is not loaded yet")
    _check(built, device)
    with _loading:
        if (built.key, device) not in _loaded:
            _loaded[built.key, device] = _load(built, device)
        return _loaded[built.key, device]


def _check(built: Built, device: int) -> None:
    here = target_of(device)
    if built.target != here:
        raise InternalError(f"{built.name} was compiled for {built.target}, but cuda:{device} is {here}")
    unknown = ("profile_scratch_size", "launch_cooperative_grid", "launch_pdl")
    if built.num_ctas != 1 or any(built.metadata[name] for name in unknown):
        raise UnsupportedError(f"{built.name} needs a launch that attncc does not make: {dict(built.metadata)}")


def _load(built: Built, device: int) -> Launch:
    door = driver()
    with torch.cuda.device(device):
        function = door.load(built.binary, built.name, built.metadata["shared"], device)
    launch = (HipLaunch if isinstance(door, Hip) else Launch)(built, device, function)
    if launch._threads > function.max_threads:
        raise UnsupportedError(
            f"{built.name} runs {launch._threads} threads; this GPU has room for {function.max_threads}"
        )
    return launch

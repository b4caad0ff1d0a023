"""The doors to the GPU's own driver: load a binary, ask what it takes, and the foreign function that starts it.

Calling the driver directly needs no C compiler, while Triton compiles a launcher for every signature; and a launch
costs less than 3 µs of Python (30 arguments, H100 host, 2026-11). NVIDIA's door is `Cuda`, AMD's is `Hip`.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attncc.errors import AttnccError, InternalError, UnsupportedError

# Numbers of the CUDA driver's interface; HIP has the same ones for a function's attributes.
MAX_THREADS, STATIC_SHARED, LOCAL_BYTES, REGISTERS, MAX_DYNAMIC_SHARED = 0, 1, 3, 4, 8
SHARED_OPT_IN = 97
PREFER_SHARED = 1
#: Up to here shared memory needs no permission.
USUAL_SHARED = 48 * 1024
INVALID_CONTEXT = 201
NO_BINARY_FOR_GPU = 209
OUT_OF_MEMORY = 2


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel on a device: its handle, and what the driver says that it takes."""

    handle: int
    registers: int
    local_bytes: int
    max_threads: int


class Cuda:
    """NVIDIA's driver; every call is about the device that is current."""

    prefix = "cu"

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.launch: Any = self.library.cuLaunchKernelEx
        self.launch.argtypes = [ctypes.c_void_p] * 4
        self.launch.restype = ctypes.c_int

    def bind(self, device: int) -> None:
        """Make the device's context current in this thread, if none is."""
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(device))
            self._call("cuCtxSetCurrent", context)

    def load(self, binary: bytes, name: str, shared: int, device: int) -> Function:
        """Load a kernel and allow it its shared memory. Raises UnsupportedError if the device lacks that."""
        self.bind(device)
        limit = self._device_attribute(SHARED_OPT_IN, device)
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(binary))
        self._call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
        total = shared + self._attribute(STATIC_SHARED, function)
        if total > limit:
            raise UnsupportedError(f"the kernel {name} needs {total} bytes of shared memory; this GPU has {limit}")
        if shared > USUAL_SHARED:
            self._call("cuFuncSetCacheConfig", function, ctypes.c_int(PREFER_SHARED))
            self._call("cuFuncSetAttribute", function, ctypes.c_int(MAX_DYNAMIC_SHARED), ctypes.c_int(shared))
        found = [self._attribute(code, function) for code in (REGISTERS, LOCAL_BYTES, MAX_THREADS)]
        return Function(int(function.value or 0), *found)

    def _attribute(self, code: int, function: ctypes.c_void_p) -> int:
        value = ctypes.c_int()
        self._call(f"{self.prefix}FuncGetAttribute", ctypes.byref(value), ctypes.c_int(code), function)
        return value.value

    def _device_attribute(self, code: int, device: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(code), ctypes.c_int(device))
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise self.explain(status, name)

    def explain(self, status: int, what: str) -> AttnccError | RuntimeError:
        """What a failure means: another GPU than the binary's, no memory, or a kernel that failed before this call."""
        if status == OUT_OF_MEMORY:
            return torch.OutOfMemoryError(f"{what}: the GPU is out of memory")
        if status == NO_BINARY_FOR_GPU:
            return InternalError(f"{what}: the kernel was compiled for another GPU")
        return RuntimeError(f"{what}: {self._message(status)} (error {status} of the GPU's driver)")

    def _message(self, status: int) -> str:
        text = ctypes.c_char_p()
        self.library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        return (text.value or b"unknown error").decode()


class Hip(Cuda):
    """AMD's driver. It compiles and its calls follow HIP's documentation; it has not run on an AMD GPU yet."""

    prefix = "hip"

    def __init__(self) -> None:
        self.library = ctypes.CDLL(_loaded_library("libamdhip64.so"))
        self.launch = self.library.hipModuleLaunchKernel
        self.launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3]
        self.launch.restype = ctypes.c_int

    def bind(self, device: int) -> None:
        """Nothing: HIP's calls bring the device's context with them."""

    def load(self, binary: bytes, name: str, shared: int, device: int) -> Function:
        """Load a kernel; AMD's shared memory needs no permission."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("hipModuleLoadData", ctypes.byref(module), ctypes.c_char_p(binary))
        self._call("hipModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
        found = [self._attribute(code, function) for code in (REGISTERS, LOCAL_BYTES, MAX_THREADS)]
        return Function(int(function.value or 0), *found)

    def _message(self, status: int) -> str:
        self.library.hipGetErrorString.restype = ctypes.c_char_p
        return str((self.library.hipGetErrorString(ctypes.c_int(status)) or b"unknown error").decode())


def _loaded_library(name: str) -> str:
    """The library that PyTorch has loaded: a second copy of the run time would not know its memory."""
    maps = Path("/proc/self/maps")
    found = re.search(rf"/\S*{re.escape(name)}\S*", maps.read_text()) if maps.exists() else None
    return found[0] if found else name


@cache
def driver() -> Cuda:
    """The driver of this machine's GPUs. Raises UnsupportedError if there is none."""
    try:
        return Hip() if torch.version.hip else Cuda()
    except OSError as error:
        raise UnsupportedError(f"the GPU's driver cannot be loaded: {error}") from error

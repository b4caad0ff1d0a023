"""Measure the host time of a warm call, kernels left out, and print docs/performance.md's table.

    python docs/measure_host.py [--rounds 9] [--calls 300] [--only NAME] [--profile]

No GPU is needed: the Triton rows run the whole path of a call on CPU tensors, with kernels whose launch packs its
arguments as a launch on a GPU does and starts nothing. What is missing is the driver's own launch, and that memory
from torch's CUDA allocator costs a little more than from the CPU's. The torch rows run the torch kernels on a problem
so small that they too are host time. Each figure is the median of some rounds of the mean of a round's calls, in the
time of this thread, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import struct
import time
from collections.abc import Callable
from unittest import mock

os.environ.setdefault("ATTNCC_SELF_TEST", "0")  # kernels that do nothing fail every test

import torch

import attncc
from attncc.emit.triton.program import Emitted
from attncc.runtime import triton_attention, triton_values
from attncc.runtime.triton_kernel import Kernel
from attncc.runtime.triton_values import key_of

WIDTH = 8  # bytes of an argument


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def windowed(size: int) -> Callable:
    def window(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    return window


def biased(slopes: torch.Tensor) -> Callable:
    def alibi(score, b, h, q_idx, kv_idx):
        return score - slopes[h] * (q_idx - kv_idx)

    return alibi


def packing_kernel(emitted: Emitted, device: torch.device) -> Kernel:
    """A kernel whose launch packs the arguments into a block, as `launch.Launch` does, and starts nothing."""
    keys = tuple(map(key_of, emitted.roles))
    floats = ("scale",)
    codes = "".join("d" if role.kind in floats else "q" for role in emitted.roles)
    pack, block = struct.Struct("<3q" + codes).pack_into, bytearray(WIDTH * (3 + len(codes)))

    def launch(grid: tuple[int, int, int], *args: object) -> None:
        pack(block, 0, *grid, *args)

    return Kernel(launch, keys, emitted.schedule.tile_q, emitted.schedule.tile_kv)


def cases(backend: str) -> dict[str, Callable[[], object]]:
    """The calls that are measured, by name."""
    dtype = torch.bfloat16 if backend == "triton" else torch.float32
    size = (2, 4, 256, 64) if backend == "triton" else (1, 1, 8, 8)
    q, k, v = (torch.randn(size, dtype=dtype) for _ in range(3))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    slopes = torch.rand(size[1])
    grad = torch.ones(size, dtype=dtype)
    options = {"backend": backend}
    plain, window = attncc.compile(mask_mod=causal), attncc.compile(mask_mod=windowed(128))
    alibi = attncc.compile(biased(slopes), causal)
    return {
        "compile(mask_mod=causal)": lambda: plain(q, k, v, **options),
        "the same, gradients wanted": lambda: plain(*leaves, **options),
        "the same, with backward": lambda: torch.autograd.grad(plain(*leaves, **options), leaves, grad),
        "attention(mask_mod=causal)": lambda: attncc.attention(q, k, v, mask_mod=causal, **options),
        "compile(mask_mod=window)": lambda: window(q, k, v, **options),
        "attention, a new closure": lambda: attncc.attention(q, k, v, mask_mod=windowed(128), **options),
        "compile(alibi, causal)": lambda: alibi(q, k, v, **options),
    }


def microseconds(call: Callable[[], object], calls: int, rounds: int) -> float:
    """The time of a warm call on this thread."""
    for _ in range(20):
        call()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            call()
        times.append((time.thread_time() - start) / calls)
    return statistics.median(times) * 1e6


def profile(call: Callable[[], object], calls: int) -> None:
    """Where the time goes."""
    call()
    with cProfile.Profile() as found:
        for _ in range(calls):
            call()
    pstats.Stats(found).sort_stats("tottime").print_stats(28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--only", default="", help="measure the calls with this in their name")
    parser.add_argument("--backend", choices=("triton", "torch"))
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stubs = (
        mock.patch.object(triton_attention, "make_kernel", packing_kernel),
        mock.patch.object(triton_values, "pointer", torch.Tensor.data_ptr),
        mock.patch.object(triton_attention, "pointer", torch.Tensor.data_ptr),
        mock.patch("attncc.runtime.triton_version.interprets", return_value=True),
        mock.patch("attncc.runtime.triton_forward.takes_addresses", return_value=True),
    )
    for stub in stubs:
        stub.start()
    print("| call | back end | microseconds |\n|---|---|---|")
    for backend in (arguments.backend,) if arguments.backend else ("triton", "torch"):
        for name, call in cases(backend).items():
            if arguments.only not in name:
                continue
            if arguments.profile:
                profile(call, arguments.calls)
            print(f"| {name} | {backend} | {microseconds(call, arguments.calls, arguments.rounds):.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""How long a call takes, as a median; and what the machine's matrix products reach, for comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import torch

#: What is written between two calls on a GPU, so that neither finds its tensors in the cache.
FLUSHED_BYTES: Final = 256 << 20
MOST_CALLS: Final = 200
FEWEST_CALLS: Final = 3


def median_ms(call: Callable[[], Any], device: str, budget_ms: float) -> float:
    """The median time of a call in milliseconds, over about `budget_ms`; what a first call does stays out."""
    call()
    once = _times(call, device, 2)[-1]
    count = int(min(MOST_CALLS, max(FEWEST_CALLS, budget_ms / max(once, 1e-3))))
    return statistics.median(_times(call, device, count))


def _times(call: Callable[[], Any], device: str, count: int) -> list[float]:
    return _on_gpu(call, count) if device.startswith("cuda") else _on_cpu(call, count)


def _on_cpu(call: Callable[[], Any], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def _on_gpu(call: Callable[[], Any], count: int) -> list[float]:
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    marks = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]  # torch
        for _ in range(count)
    ]
    for start, end in marks:
        flushed.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def matrix_tflops(dtype: torch.dtype, device: str, budget_ms: float) -> float:
    """What products of large matrices reach in this dtype, in TFLOP/s: the rate that attention is compared with."""
    side = 8192 if device.startswith("cuda") else 512
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_ms(lambda: a @ b, device, budget_ms) / 1e9

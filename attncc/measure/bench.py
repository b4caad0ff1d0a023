"""One variant measured beside other implementations, in one process: forward, and backward alone.

Results come out one by one, so that what is known is kept if a later one hangs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from attncc.measure.cases import visible_pairs
from attncc.measure.clock import matrix_tflops, median_ms
from attncc.measure.contenders import CONTENDERS, Attend, Problem, Unable
from attncc.report.benchmark import Timing
from attncc.runtime import triton_version

SEED = 0


def describe_machine(dtype: str, device: str, budget_ms: float) -> dict[str, Any]:
    """The device, the versions, and the rate of its matrix products in this dtype."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU"
    threads = "" if device.startswith("cuda") else f", {torch.get_num_threads()} threads"
    return {
        "device": name + threads,
        "versions": f"torch {torch.__version__}, triton {triton_version.version() or 'not installed'}",
        "matrix_tflops": matrix_tflops(getattr(torch, dtype), device, budget_ms),
    }


def measure(
    name: str, problem: Problem, dtype: str, passes: Sequence[str], contenders: Sequence[str], budget_ms: float
) -> Iterator[Timing]:
    """The time of each contender for each pass; attncc comes first, and others are compared with its output."""
    flops = forward_flops(problem)
    q, k, v, grad = example_tensors(problem, dtype)
    wanted: Tensor | None = None
    for contender in contenders:
        title, prepare = CONTENDERS[contender]
        label: dict[str, Any] = {
            "case": name,
            "contender": title,
            "head_dim": problem.shape.head_dim,
            "q_len": problem.shape.q_len,
        }
        try:
            call = prepare(problem)
            out = call(q, k, v)
        except Exception as error:  # whatever another implementation does
            yield from (Timing(**label, direction=each, note=_reason(error)) for each in passes)
            continue
        wanted = out.detach() if wanted is None and contender == "attncc" else wanted
        off = None if wanted is None else float((out.detach().float() - wanted.float()).abs().max())
        for each in passes:
            yield _time(each, label, problem, call, out, (q, k, v, grad), flops, budget_ms, off)


def _time(
    direction: str,
    label: dict[str, Any],
    problem: Problem,
    call: Attend,
    out: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    flops: float,
    budget_ms: float,
    off: float | None,
) -> Timing:
    q, k, v, grad = tensors
    leaves = [q, k, v, *(capture for capture in problem.captures if capture.requires_grad)]
    run: Callable[[], Any]
    if direction == "forward":

        def run() -> Any:
            with torch.no_grad():
                return call(q, k, v)

    else:
        flops = 2.5 * flops

        def run() -> Any:
            return torch.autograd.grad(out, leaves, grad, retain_graph=True, allow_unused=True)

    try:
        ms = median_ms(run, problem.device, budget_ms)
    except Exception as error:  # as above
        return Timing(**label, direction=direction, note=_reason(error))
    return Timing(**label, direction=direction, ms=ms, tflops=flops / ms / 1e9, difference=off)


def forward_flops(problem: Problem) -> float:
    """Floating-point operations of the visible pairs: two products, of scores and of the output."""
    return 4 * visible_pairs(problem.mask_mod, problem.shape, problem.device) * problem.shape.head_dim


def example_tensors(problem: Problem, dtype: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k and v, which take gradients, and a gradient of the output."""
    shape, kind = problem.shape, getattr(torch, dtype)
    numbers = torch.Generator(device=problem.device).manual_seed(SEED)
    of_q = (shape.batch, shape.heads, shape.q_len, shape.head_dim)
    of_k = (shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim)
    made = [torch.randn(size, generator=numbers, device=problem.device).to(kind) for size in (of_q, of_k, of_k, of_q)]
    q, k, v = (tensor.requires_grad_() for tensor in made[:3])
    return q, k, v, made[3]


def _reason(error: Exception) -> str:
    """One line of an error; where it says nothing, its name."""
    if isinstance(error, Unable):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:160]

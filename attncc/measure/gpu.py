"""Tuning on the GPU of this machine: candidates are compiled by several processes, then passes are timed."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from attncc import pipeline
from attncc.api.inputs import check_inputs
from attncc.api.lowering import lowered, make_call
from attncc.api.options import Options
from attncc.emit.kernel import TritonKernel
from attncc.emit.triton.program import TritonProgram
from attncc.errors import AttnccError, InputError
from attncc.measure.bench import example_tensors
from attncc.measure.clock import median_ms
from attncc.measure.contenders import Problem
from attncc.measure.tune import Measure, Trial, Tuning, tune_pass
from attncc.runtime import launch, triton_build
from attncc.runtime.packing import spread
from attncc.runtime.triton_attention import TritonPass, load_program
from attncc.runtime.triton_fit import misfit
from attncc.runtime.tuned import Winner, keep
from attncc.schedule import Target
from attncc.schedule.candidates import candidates

Observe = Callable[[str, Trial], None]
#: Kernels that are compiled by threads: about 0.3 s of each is Python's, the rest ptxas's (EPYC, 2026-11).
FEW = 16


@dataclass(frozen=True, slots=True)
class Work:
    """One pass of a call on this GPU: the program under the tables' schedules, and what runs it once."""

    programs: pipeline.TritonPrograms
    program: TritonProgram
    run: Callable[[TritonPass], object]


def tune_here(
    problem: Problem, dtype: str, names: Sequence[str], every: bool, budget_ms: float, observe: Observe
) -> list[Tuning]:
    """Time the schedules of each named pass that the problem has, and keep the winners for this device.

    `every` tries all that fit, otherwise only the choices of the tables.
    """
    found = []
    for work in works(problem, dtype):
        for name in names:
            if work.program.scheduled(name):
                found.append(_tune(work, name, problem, every, budget_ms, observe))
    return found


def _tune(work: Work, name: str, problem: Problem, every: bool, budget_ms: float, observe: Observe) -> Tuning:
    device = torch.device(problem.device)
    target = launch.target_of(torch.cuda.current_device())
    own = work.program.variant.problem
    further = candidates(name, own, Target("triton", "cuda", target)) if every else ()
    tuning = tune_pass(
        work.program,
        name,
        further,
        lambda programs, name: fits(programs, name, target),
        measure_on(work, device, budget_ms),
        lambda trial: observe(name, trial),
    )
    best, first = tuning.best, tuning.first
    if best is not None and best.ms is not None:
        known = None if first is None else first.ms
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        about = (torch.cuda.get_device_name(device), best.schedule, best.ms, known, len(tuning.timed), date)
        keep(work.program, Winner(work.program.variant.spec.name, name, *about, _shape(problem, own.dtype)))
    return tuning


def works(problem: Problem, dtype: str) -> list[Work]:
    """The forward and the backward pass of a problem, on tensors of its shape."""
    q, k, v, grad = example_tensors(problem, dtype)
    reading = problem.variant._read(device=q.device)  # what a call reads
    call = make_call(reading, check_inputs(q, k, v), Options("triton"))
    found = lowered(call)
    if found.triton_forward is None or found.triton_backward is None:
        raise InputError(f"{problem.variant.name} has no Triton kernels for this problem")
    captures = tuple(capture.detach() for capture in call.captures)
    rest = (captures, call.parameters, call.inputs.scale)
    tensors = (q.detach(), k.detach(), v.detach())
    out, lse, largest, sums = TritonPass(found.triton_forward, q.device).forward(*tensors, *rest)
    rows = (grad, torch.zeros_like(lse), *tensors, out, largest, sums)
    return [
        Work(found.triton_forward, found.triton_forward(), lambda kernels: kernels.forward(*tensors, *rest)),
        Work(found.triton_backward, found.triton_backward(), lambda kernels: kernels.backward(*rows, *rest)),
    ]


def measure_on(work: Work, device: torch.device, budget_ms: float) -> Measure:
    """The time of a pass under the first choices of a program; aligned tensors of usual sizes take its kernels."""

    def measure(program: TritonProgram) -> float:
        kernels = TritonPass(work.programs, device)
        kernels.loaded[True, False] = replace(load_program(program, device), tested=True)
        return median_ms(lambda: work.run(kernels), device.type, budget_ms)

    return measure


def fits(programs: Sequence[TritonProgram], name: str, target: str) -> list[str | None]:
    """For each program why a pass does not fit, or None; what is not in the cache is compiled by several processes."""
    every = dict.fromkeys(emitted.kernel for program in programs for emitted in program.scheduled(name))
    compile_together(list(every), target, os.cpu_count() or 1)
    return [misfit(program, name, target) for program in programs]


def compile_together(kernels: Sequence[TritonKernel], target: str, jobs: int) -> None:
    """Compile kernels into the cache at the same time; one that Triton refuses is left out.

    A few go to threads, since most of the work is done by ptxas; for more it pays to start processes.
    """
    if len(kernels) <= FEW:
        with ThreadPoolExecutor(max(1, len(kernels))) as pool:
            list(pool.map(lambda kernel: _compile_or_leave(kernel, target), kernels))
        return
    calls = {number: (kernel, target) for number, kernel in enumerate(kernels)}
    for _ in spread(_compile, calls, min(jobs, len(calls))):
        pass


def _compile_or_leave(kernel: TritonKernel, target: str) -> None:
    with suppress(AttnccError):
        triton_build.build(kernel, target)


def _compile(kernel: TritonKernel, target: str) -> None:
    """Compile one kernel; the binary stays in the cache, where the process that asked finds it."""
    triton_build.build(kernel, target)


def _shape(problem: Problem, dtype: str) -> str:
    s = problem.shape
    return f"{dtype}, B{s.batch} H{s.heads}/{s.kv_heads} S{s.q_len}x{s.kv_len} D{s.head_dim}"

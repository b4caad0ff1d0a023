"""Which schedules a variant's kernels run under: the first of each pass that fits the GPU, as the compiler reports it.

A kernel fits if its program's shared memory does, and if all values stay in registers. Float32 kernels backward, whose
products need many registers, may spill a little where heads are large.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import torch

from attncc.config import LOG
from attncc.emit.kernel import TritonKernel
from attncc.emit.triton.program import TritonProgram
from attncc.errors import AttnccError, CompileError, UnsupportedError
from attncc.runtime import launch, triton_build
from attncc.runtime.triton_build import CompilerFailure
from attncc.runtime.tuned import with_winners, workers
from attncc.schedule.gluon import ONE_PASS
from attncc.schedule.triton import ROWS

#: Bytes of local memory for each thread that a float32 kernel backward may use, with heads above `SPILLING_HEADS`.
FLOAT32_SPILLS: Final = 64
SPILLING_HEADS: Final = 128
#: The same for a Gluon kernel. With 40 bytes, tiles of 128 keys were 1.1 times as fast as tiles of 64 without spills,
#: with 48 as fast (documents and alibi_symmetric, H100, D 128, S 8192, 2026-11-23).
GLUON_SPILLS: Final = 64
#: The same for the one pass backward, beside two passes without. With 304 bytes it was 1.02 times as fast (alibi), with
#: 384 1.1 times (relative_bias), with 208 1.2 times (documents), with 448 0.7 times (alibi and gradients of its slopes;
#: H100, D 128, S 8192, 2026-11-24).
ONE_PASS_SPILLS: Final = 400

#: Processors for each choice that is compiled beside others.
PROCESSORS: Final = 4

Build = Callable[[TritonKernel, str], triton_build.Built]
#: Hears of a program that is about to be compiled, and for which device.
Foresee = Callable[[TritonProgram, str], None]


def settle(program: TritonProgram, device: torch.device, foresee: Foresee | None = None) -> TritonProgram:
    """The program under the schedules that fit a device, tuned ones first; in the interpreter any does."""
    if device.type == "cpu":
        return program
    index: int | None = device.index
    target = launch.target_of(torch.cuda.current_device() if index is None else index)
    tuned = with_winners(program, torch.cuda.get_device_name(device))
    if missing := unbuilt(tuned, target):
        if foresee is not None:
            foresee(tuned, str(device))
        build_together(missing, target)
    return settle_for(tuned, target)


def unbuilt(program: TritonProgram, target: str) -> list[TritonKernel]:
    """The kernels of a program that have to be compiled before they are used; none where nothing may be compiled."""
    capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]  # torch
    if capturing or triton_build.compile_refusal() is not None:
        return []
    kernels = {emitted.kernel: None for emitted in (*program.passes.values(), *program.lists.values())}
    return [kernel for kernel in kernels if not triton_build.is_built(kernel, target)]


def build_together(kernels: Sequence[TritonKernel], target: str) -> None:
    """Compile kernels at the same time: the compiler lets other threads run for most of its work.

    The longest begins first. Whatever cannot be built is left to whoever asks for it next, and raises there.
    """
    if not kernels:
        return
    kernels = sorted(kernels, key=lambda kernel: -len(kernel.source.text))

    def build(kernel: TritonKernel) -> None:
        with suppress(AttnccError):
            triton_build.build(kernel, target)

    with ThreadPoolExecutor(len(kernels), thread_name_prefix="attncc-compile") as pool:
        list(pool.map(build, kernels))


def settle_for(program: TritonProgram, target: str, build: Build = triton_build.build) -> TritonProgram:
    """The program under the schedules that fit a target."""
    for name in (ONE_PASS, *ROWS):
        settled = _settle_pass(program, name, target, build)
        if build is triton_build.build and settled.passes.keys() != program.passes.keys():
            build_together(unbuilt(settled, target), target)  # two passes in the place of one
        program = settled
    return program


def _settle_pass(program: TritonProgram, name: str, target: str, build: Build) -> TritonProgram:
    """The program with the first schedule of this name that fits; with the one that spills least where none does.

    A schedule on which Triton's compiler itself fails gives way to the next, which says so. Raises CompileError where
    no schedule can run, UnsupportedError where none is there and nothing may be compiled.
    """
    if not program.scheduled(name):
        return program
    found: list[tuple[float, TritonProgram]] = []
    failures: list[str] = []
    missing: UnsupportedError | None = None
    for candidate in _candidates(program, name, target, build):
        try:
            built = [(build(each.kernel, target), each.kernel) for each in candidate.scheduled(name)]
        except CompilerFailure as failure:
            failures.append(_failure(candidate, name, failure))
            continue
        except UnsupportedError as error:
            missing = missing or error
            if found or triton_build.compile_refusal() is None:
                break  # nothing more may be compiled here
            continue  # a pack lacks the choices on which the compiler failed
        excess = max((_excess(each, program, kernel) for each, kernel in built), default=0)
        if excess == math.inf:
            shared = max(each.resources.shared for each, _ in built)
            failures.append(f"{_schedule_of(candidate, name)}: needs {shared} bytes of shared memory")
            continue
        candidate = _noting(candidate, name, failures)
        if excess == 0:
            return candidate
        found.append((excess, candidate))
    if found:
        least, best = min(found, key=lambda pair: pair[0])
        LOG.warning("%s: %s spills %d bytes for each thread", program.variant.spec.name, name, least)
        return best
    if missing is not None:
        raise missing
    reasons = "\n".join(failures)
    raise CompileError(f"{program.variant.spec.name}: no schedule of {name} can run on {target}:\n{reasons}")


def _failure(program: TritonProgram, name: str, failure: CompilerFailure) -> str:
    """Why the first choice for a pass gives way, with a line in the log."""
    found = f"{_schedule_of(program, name)}: {failure.message.splitlines()[0]}"
    LOG.warning("%s: %s gives way: %s", program.variant.spec.name, name, found)
    return found


def _schedule_of(program: TritonProgram, name: str) -> str:
    s = program.scheduled(name)[0].schedule
    return f"tiles of {s.tile_q} queries x {s.tile_kv} keys, {workers(s)}"


def _noting(program: TritonProgram, name: str, failures: Sequence[str]) -> TritonProgram:
    """The program whose schedule of this name says which choices gave way to it, and why."""
    if not failures:
        return program
    schedules, notes = program.schedules, tuple(f"not {failure}" for failure in failures)
    if name != ONE_PASS:
        noted: Any = {name: replace(getattr(schedules, name), reasons=(*getattr(schedules, name).reasons, *notes))}
    elif schedules.backward:
        first, *others = schedules.backward
        noted = {name: (replace(first, reasons=(*first.reasons, *notes)), *others)}
    else:  # two passes in the place of one
        return _noting(program, "backward_kv", failures)
    return program.rescheduled(replace(schedules, **noted))


def _candidates(program: TritonProgram, name: str, target: str, build: Build) -> Iterator[TritonProgram]:
    """The program under each choice for a pass, best first. Where the first does not fit, several others are compiled
    at the same time, as far as there are processors for them."""
    yield program
    others = program.schedules.choices(name)[1:]
    count = max(1, (os.cpu_count() or 1) // PROCESSORS)
    for at in range(0, len(others), count):
        made = [program.rescheduled(schedules) for schedules in others[at : at + count]]
        if build is triton_build.build and count > 1:
            wanted = {emitted.kernel for each in made for emitted in each.scheduled(name)}
            missing = dict.fromkeys(kernel for each in made for kernel in unbuilt(each, target))
            build_together([kernel for kernel in missing if kernel in wanted], target)
        yield from made


def misfit(program: TritonProgram, name: str, target: str, build: Build = triton_build.build) -> str | None:
    """Why a pass cannot run under the first choices of a program; None where it can."""
    for emitted in program.scheduled(name):
        try:
            built = build(emitted.kernel, target)
        except AttnccError as error:
            return error.message.splitlines()[0]
        excess = _excess(built, program, emitted.kernel)
        if excess:
            taken = built.resources
            return f"needs {taken.shared} bytes of shared memory" if excess == math.inf else f"spills {excess} bytes"
    return None


def _excess(built: triton_build.Built, program: TritonProgram, kernel: TritonKernel) -> float:
    """How far a kernel is from fitting: its spills in bytes, or infinity where it cannot run."""
    if built.resources.shared > launch.shared_limit(built.target):
        return math.inf
    allowed = FLOAT32_SPILLS if _may_spill(program) else 0
    if kernel.gluon:
        allowed = ONE_PASS_SPILLS if kernel.entry == ONE_PASS else GLUON_SPILLS
    return built.resources.spills if built.resources.spills > allowed else 0


def _may_spill(program: TritonProgram) -> bool:
    problem = program.variant.problem
    large = max(problem.head_dim, problem.value_dim) > SPILLING_HEADS
    return problem.dtype == "float32" and large and program.variant.derivatives is not None

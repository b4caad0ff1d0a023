"""Kernels in which each step begins a product of the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc import pipeline
from attncc.emit.triton.program import TritonProgram
from attncc.frontend.parse import parse
from attncc.schedule import Facts, Gradients, Problem, Target
from attncc.schedule.triton import HOPPER, TritonSchedule
from tests.gluon.inspect import inspect_kernel

SPECS = {
    "causal": "attention causal:\n  mask = q_idx >= kv_idx\n",
    "documents": "attention documents:\n  capture ids: int[q_len]\n"
    "  mask = q_idx >= kv_idx and ids[q_idx] == ids[kv_idx]\n",
}
LENGTH = 4096
AHEAD = {
    "forward": TritonSchedule(128, 64, 8, 3, ahead=True),
    "backward_q": TritonSchedule(128, 64, 8, 3, ahead=True, registers=True),
    "backward_kv": TritonSchedule(32, 128, 8, 3, ahead=True, registers=True),
}


def programs(name: str, dim: int, schedules: dict[str, TritonSchedule] = AHEAD) -> list[TritonProgram]:
    """The kernels of a variant under these schedules, forward and backward."""
    kinds, shapes = (("int64",), ((LENGTH,),)) if name == "documents" else ((), ())
    facts = Facts(2, LENGTH, LENGTH, shapes)
    gradients = Gradients(captures=tuple(False for _ in kinds))
    problem = Problem("bfloat16", dim, dim, 8, 8, kinds, gradients=gradients, facts=facts)
    lowered = pipeline.lower(parse(SPECS[name]), problem, Target("triton", "cuda", "sm_90"))
    assert lowered.triton_forward is not None
    assert lowered.triton_backward is not None
    every = (lowered.triton_forward(), lowered.triton_backward())
    return [program.rescheduled(replace(program.schedules, **schedules)) for program in every]


@pytest.mark.parametrize("name", SPECS)
def test_kernels_read_well(name, golden):
    """Whether they do is for the reader of these files to say."""
    for program in programs(name, 128):
        for kernel, emitted in program.passes.items():
            if kernel in AHEAD:
                golden(f"{kernel}.py").check(emitted.source.text)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "dim"), [(kernel, dim) for kernel, rows in HOPPER.items() for dim in rows])
def test_products_on_hopper_run_beside_weights(kernel, dim):
    for schedule in HOPPER[kernel][dim]:
        emitted = next(p.passes[kernel] for p in programs("causal", dim, {kernel: schedule}) if kernel in p.passes)
        found = inspect_kernel(emitted.kernel)
        assert not found.serialized, schedule
        assert not found.spill_stores, schedule

"""Float32 kernels in full precision: Triton unrolls their products, so that few of them keep values in registers."""

from __future__ import annotations

from functools import cache

import pytest

from attncc import pipeline
from attncc.frontend.parse import parse
from attncc.runtime.launch import shared_limit
from attncc.runtime.triton_build import compile_kernel
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.triton import WIDE_ROWS, choose_triton_schedules

CAUSAL = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
#: Multiplications that Triton writes out for each thread and product: with more, kernels spill.
MOST_PRODUCTS = 512
THREADS = 32
PASSES = ("forward", "backward_q", "backward_kv")


@pytest.mark.parametrize("name", WIDE_ROWS)
@pytest.mark.parametrize("width", [64, 128, 256])
def test_first_choices_unroll_few_products(name, width):
    tile_q, tile_kv, warps, _ = WIDE_ROWS[name][width][0]
    assert tile_q * tile_kv * width <= MOST_PRODUCTS * THREADS * warps


@cache
def kernels(dim: int):
    problem = Problem("float32", dim, dim, 8, 8, gradients=Gradients())
    lowered = pipeline.lower(CAUSAL, problem, Target("triton", "cuda", "sm_90"))
    return {**lowered.triton_forward().passes, **lowered.triton_backward().passes}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("dim", [64, 128])
def test_first_choices_keep_their_values_in_registers(name, dim):
    found = compile_kernel(kernels(dim)[name].kernel, "sm_90").resources
    assert found.spills == 0
    assert found.shared <= shared_limit("sm_90")


@pytest.mark.parametrize("name", PASSES)
def test_reasons_say_what_runs_the_products(name):
    for tf32, units in ((False, "ordinary units"), (True, "matrix units")):
        problem = Problem("float32", 64, 64, tf32=tf32)
        chosen = getattr(choose_triton_schedules(problem, Target("triton", "cuda", "sm_90")), name)
        assert units in chosen.reasons[0]
        assert "not timed" in chosen.reasons[0]

"""Kernels of the gallery's main variants for GPUs that are not here: they fit in shared memory and spill nothing."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest

from attncc import pipeline
from attncc.emit.kernel import TritonKernel
from attncc.emit.triton.program import TritonProgram
from attncc.frontend import trace_functions
from attncc.ir import Scalar
from attncc.ir.spec import ANY_DIM
from attncc.runtime.launch import shared_limit
from attncc.runtime.triton_build import Built, compile_kernel
from attncc.runtime.triton_fit import settle_for
from attncc.schedule import Facts, Gradients, Problem, Target
from attncc.schedule.triton import ROWS, shared_bytes
from attncc.variants.gallery import gallery
from tests.share import SEED, share

VARIANTS = ("full", "causal", "alibi", "sliding_window", "documents", "windowed_soft_cap", "relative_bias", "prefix_lm")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DIMS = (64, 128, 256, 80, 96, 192)
LENGTH = 4096
NAMES = {Scalar.FLOAT: "float32", Scalar.INDEX: "int64", Scalar.BOOL: "bool"}


def chosen() -> list[tuple[str, str, int, str]]:
    """A seeded share of all combinations of variant, target, head size and dtype."""
    every = list(itertools.product(VARIANTS, TARGETS, DIMS, ("bfloat16", "float16")))
    return random.Random(SEED).sample(every, share(30))


def programs(name: str, target: str, dim: int, dtype: str) -> list[TritonProgram]:
    """The kernels of a variant, forward and backward, for calls of usual sizes."""
    entry = gallery()[name]
    spec = trace_functions(*entry.at(entry.sizes(64)), name=name).spec
    sizes = {"batch": 2, "heads": 8, "q_len": LENGTH, "kv_len": LENGTH, ANY_DIM: 1 << 24}
    shapes = tuple(tuple(d if isinstance(d, int) else sizes[d] for d in capture.dims) for capture in spec.captures)
    facts = Facts(2, LENGTH, LENGTH, shapes, tuple(p.value for p in spec.parameters))
    kinds = tuple(NAMES[capture.scalar] for capture in spec.captures)
    gradients = Gradients(captures=tuple(capture.scalar is Scalar.FLOAT for capture in spec.captures))
    problem = Problem(dtype, dim, dim, 8, 2, kinds, gradients=gradients, facts=facts)
    lowered = pipeline.lower(spec, problem, Target("triton", "cuda", target))
    assert lowered.triton_forward is not None
    assert lowered.triton_backward is not None
    return [lowered.triton_forward(), lowered.triton_backward()]


@cache
def compiled(kernel: TritonKernel, target: str) -> Built:
    """A kernel, compiled once."""
    return compile_kernel(kernel, target)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "dim", "dtype"), chosen())
def test_kernels_fit_and_spill_nothing(name, target, dim, dtype):
    faults = []
    for program in programs(name, target, dim, dtype):
        settled = settle_for(program, target, compiled)
        for emitted in (*settled.passes.values(), *settled.lists.values()):
            found = compiled(emitted.kernel, target).resources
            row = (emitted.schedule.tile_q, emitted.schedule.tile_kv, emitted.schedule.num_warps)
            if found.spills or found.shared > shared_limit(target):
                faults.append(f"{emitted.kernel.entry} {row}: {found}")
    assert not faults, "\n".join(faults)


def estimated() -> list[tuple[str, int, int, str]]:
    """A seeded share of variants with their head size, bytes that captures take for each pair, and target."""
    every = [(*one, target) for one in (("windowed_soft_cap", 128, 0), ("relative_bias", 64, 4)) for target in TARGETS]
    return random.Random(SEED).sample(every, share(len(every)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim", "pair_bytes", "target"), estimated())
def test_the_estimate_of_shared_memory_is_never_too_low(name, dim, pair_bytes, target):
    problem = Problem("bfloat16", dim, dim)
    for program in programs(name, target, dim, "bfloat16"):
        for kernel, emitted in program.passes.items():
            if kernel in ROWS:
                schedule = emitted.schedule
                row = (schedule.tile_q, schedule.tile_kv, schedule.num_warps, schedule.num_stages)
                assert compiled(emitted.kernel, target).resources.shared <= shared_bytes(
                    row, problem, kernel, pair_bytes
                ), (kernel, row)

"""Kernels of the gallery's main variants for GPUs that are not here: they fit in shared memory and spill nothing.

Those of float32 backward with heads above 128 may spill a little; each that does is written to the log of the tests.
"""

from __future__ import annotations

import itertools
import random
import re
from functools import cache
from pathlib import Path

import pytest

from attncc import pipeline
from attncc.emit.kernel import TritonKernel
from attncc.emit.triton.program import TritonProgram
from attncc.frontend import trace_functions
from attncc.ir import Scalar
from attncc.ir.spec import ANY_DIM
from attncc.resources import resource_dir
from attncc.runtime import triton_version
from attncc.runtime.launch import shared_limit
from attncc.runtime.triton_build import Built, compile_kernel
from attncc.runtime.triton_fit import FLOAT32_SPILLS, SPILLING_HEADS, _settle_pass, settle_for
from attncc.schedule import Facts, Gradients, Problem, Target
from attncc.schedule.triton import ROWS, shared_bytes
from attncc.variants.gallery import gallery
from tests import newest
from tests.share import SEED, share

VARIANTS = (
    *("full", "causal", "alibi", "sliding_window", "documents", "windowed_soft_cap", "relative_bias", "pair_bias"),
    "prefix_lm",
)
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DIMS = (64, 128, 256, 80, 96, 192)
LENGTH = 4096
NAMES = {Scalar.FLOAT: "float32", Scalar.INDEX: "int64", Scalar.BOOL: "bool"}


def chosen() -> list[tuple[str, str, int, str]]:
    """A seeded share of all combinations of variant, target, head size and dtype."""
    every = list(itertools.product(VARIANTS, TARGETS, DIMS, ("bfloat16", "float16", "float32")))
    return random.Random(SEED).sample(every, share(30))


def programs(name: str, target: str, dim: int, dtype: str, refine: bool = False) -> list[TritonProgram]:
    """The kernels of a variant, forward and backward, for calls of usual sizes."""
    entry = gallery()[name]
    spec = trace_functions(*entry.at(entry.sizes(64)), name=name).spec
    sizes = {"batch": 2, "heads": 8, "q_len": LENGTH, "kv_len": LENGTH, ANY_DIM: 1 << 24}
    shapes = tuple(tuple(d if isinstance(d, int) else sizes[d] for d in capture.dims) for capture in spec.captures)
    facts = Facts(2, LENGTH, LENGTH, shapes, tuple(p.value for p in spec.parameters))
    kinds = tuple(NAMES[capture.scalar] for capture in spec.captures)
    gradients = Gradients(captures=tuple(capture.scalar is Scalar.FLOAT for capture in spec.captures))
    problem = Problem(dtype, dim, dim, 8, 2, kinds, gradients=gradients, facts=facts, refine=refine)
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
            print(f"{emitted.kernel.entry} {row}: {found}")
            large = dtype == "float32" and dim > SPILLING_HEADS and program.variant.derivatives is not None
            if found.spills > (FLOAT32_SPILLS if large else 0) or found.shared > shared_limit(target):
                faults.append(f"{emitted.kernel.entry} {row}: {found}")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_template_compiles(target):
    wanted = {path.name.removesuffix(".py.j2") for path in resource_dir("templates").joinpath("triton").iterdir()}
    every = [settle_for(program, target, compiled) for program in programs("documents", target, 64, "bfloat16", True)]
    for name in ("relative_bias", "pair_bias"):
        backward = programs(name, target, 64, "bfloat16")[1]
        every.append(_settle_pass(backward, "backward_pairs", target, compiled))
    seen, faults = {"host"}, []  # what runs around kernels is torch's
    for emitted in (each for program in every for each in (*program.passes.values(), *program.lists.values())):
        template = emitted.kernel.source.name
        if template not in seen:
            seen.add(template)
            found = compiled(emitted.kernel, target).resources
            faults += [f"{template}: {found}"] if found.spills or found.shared > shared_limit(target) else []
    assert seen == wanted
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", ["documents", "relative_bias"])
def test_a_schedule_on_which_triton_itself_fails_gives_way_to_one_that_compiles(name):
    forward = programs(name, "gfx950", 64, "bfloat16")[0]
    settled = settle_for(forward, "gfx950", compiled).passes["forward"]
    gave_way = any("fails on the kernel forward for gfx950" in reason for reason in settled.schedule.reasons)
    assert gave_way == (settled.kernel != forward.passes["forward"].kernel)
    if not gave_way:
        pytest.skip(f"Triton {triton_version.version()} compiles the first choice of {name}")


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
                    row, problem, kernel, pair_bytes, ahead=schedule.ahead
                ), (kernel, row)


@pytest.mark.slow
@pytest.mark.skipif(not newest.is_there(), reason=f"Triton {newest.newest_version()} is not here: make newest")
@pytest.mark.parametrize("target", TARGETS)
def test_every_template_compiles_with_the_newest_triton(target):
    name = f"{Path(__file__).relative_to(newest.ROOT)}::test_every_template_compiles[{target}]"
    said = newest.run_tests(name)
    assert f"Triton {newest.newest_version()} {newest.FOLDER}" in said
    assert re.search(r"^1 passed", said, re.MULTILINE), said

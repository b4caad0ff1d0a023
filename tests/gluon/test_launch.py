"""Variants of the gallery run in the simulator as the runtime launches them, and agree with the reference."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from attncc import pipeline
from attncc.runtime import op, triton_build
from attncc.schedule import gluon as schedules
from attncc.variants.gallery import gallery
from tests.gluon.launch import DEVICE, simulated
from tests.gluon.rendered import HOPPER
from tests.runtime.triton.cases import dense, errors, gallery_case, outcome, triton
from tests.share import SHARE

#: bfloat16 holds 8 bits; weights and gradients of scores are rounded to it once each, and results once more.
TOLERANCE = 3 * 2**-8


#: The gallery; in `make test` every third of it.
NAMES = list(gallery())[:: 1 if SHARE == 1 else 3]


@pytest.mark.parametrize("name", NAMES)
def test_variants_agree_with_the_reference(name: str):
    case = gallery_case(name, 150, batch=1, heads=4, group=2, dim=64, value_dim=64)
    with simulated() as launches:
        found = outcome(triton(case), *case.tensors(torch.bfloat16))
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    assert max(errors(found, wanted)) < TOLERANCE
    assert "forward" in {one.kernel.entry for one in launches if one.kernel.gluon}


@pytest.mark.parametrize(("dim", "value_dim"), [(96, 64), (64, 96), (40, 40)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_of_any_size_agree_with_the_reference(dim: int, value_dim: int, dtype: torch.dtype):
    case = gallery_case("sliding_window", 90, batch=1, heads=4, group=2, dim=dim, value_dim=value_dim)
    with simulated(seed=2):
        found = outcome(triton(case), *case.tensors(dtype))
    assert max(errors(found, outcome(dense(case), *case.tensors(torch.float64)))) < TOLERANCE


def test_heads_beside_each_other_agree_with_the_reference():
    case = gallery_case("causal", 90, batch=2, heads=4, group=2, dim=64, value_dim=64)
    own, captures = case.tensors(torch.bfloat16)
    with simulated(), torch.no_grad():
        out, lse = triton(case)(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in own), captures)
        wanted = triton(case)(*own, captures)
    assert torch.equal(out, wanted[0])
    assert torch.equal(lse, wanted[1])


def test_tables_are_listed_by_a_program_for_each_row_however_small_the_device():
    case = gallery_case("adaptive_span", 150, batch=1, heads=4, group=2, dim=64, value_dim=64)
    with simulated() as launches, torch.no_grad():
        triton(case)(*case.tensors(torch.bfloat16)[0], case.tensors(torch.bfloat16)[1])
    programs = {launch.kernel.entry: launch.grid[0] for launch in launches}
    assert programs == {"list_tiles": 8, "forward": DEVICE.multi_processor_count}


def test_tables_are_refined_where_a_tile_is_no_power_of_two():
    case = gallery_case("documents", 400, batch=1, heads=2, group=1, dim=64, value_dim=64)
    own, captures = case.tensors(torch.bfloat16)
    text = pipeline.remember(case.spec)
    with simulated() as launches, mock.patch.object(schedules, "SHORT", 0), torch.no_grad():
        out, _ = op.attend(text, *own, captures, (), scale=0.125, backend="triton", refine=True)
    names = [launch.kernel.entry for launch in launches]
    assert names == ["list_tiles", "refine_tiles", "forward"]
    assert "TILE_Q = tl.constexpr(192)" in launches[1].kernel.source.text
    assert triton_build.compile_kernel(launches[1].kernel, "sm_90").resources.spills == 0
    wanted, _ = dense(case)(*(t.double() for t in own), captures)
    assert max(errors([out], [wanted])) < TOLERANCE


@pytest.mark.parametrize(("length", "tile_q"), [(150, 128), (schedules.SHORT, 128), (schedules.SHORT + 1, 192)])
def test_few_queries_have_tiles_of_their_own(length, tile_q):
    q = torch.empty(1, 1, length, 64, dtype=torch.bfloat16)
    lowered = pipeline.lower(gallery_case("causal", 8).spec, op.problem_of([q, q, q], (), None, 0, 0), HOPPER)
    assert lowered.schedule.tile_q == tile_q


def test_a_launch_can_be_repeated_with_another_text():
    case = gallery_case("causal", 70, batch=1, heads=2, group=2, dim=64, value_dim=64)
    with simulated() as launches:
        triton(case)(*case.tensors(torch.bfloat16)[0], [])
    (launch,) = launches
    text = launch.kernel.source.text
    assert launch.again(text, seed=3)
    assert not launch.again(text.replace("LN2 = ", "LN2 = 2 * "))


def test_kernels_of_the_simulator_do_not_stay_with_the_runtime():
    from attncc.runtime import op  # late: read where the runtime keeps them

    kept = dict(op._KERNELS), dict(op._PASSES)
    case = gallery_case("full", 70, batch=1, heads=2, group=2, dim=64, value_dim=64)
    with simulated():
        triton(case)(*case.tensors(torch.bfloat16)[0], [])
    assert kept == (op._KERNELS, op._PASSES)

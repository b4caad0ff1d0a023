"""Variants of the gallery run in the simulator as the runtime launches them, and agree with the reference."""

from __future__ import annotations

import pytest
import torch

from attncc.variants.gallery import gallery
from tests.gluon.launch import DEVICE, simulated
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
    assert programs == {"list_tiles": 4, "forward": DEVICE.multi_processor_count}


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

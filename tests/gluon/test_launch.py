"""Variants of the gallery run in the simulator as the runtime launches them, and agree with the reference."""

from __future__ import annotations

import pytest
import torch

from tests.gluon.launch import simulated
from tests.runtime.triton.cases import dense, errors, gallery_case, outcome, triton

#: bfloat16 holds 8 bits; weights and gradients of scores are rounded to it once each, and results once more.
TOLERANCE = 3 * 2**-8


@pytest.mark.parametrize(
    ("name", "length"),
    [("causal", 200), ("documents", 130), ("soft_cap", 100), ("alibi", 100), ("sandwich", 100)],
)
def test_variants_agree_with_the_reference(name: str, length: int):
    case = gallery_case(name, length, batch=1, heads=2, group=2, dim=64, value_dim=64)
    with simulated() as launches:
        found = outcome(triton(case), *case.tensors(torch.bfloat16))
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    assert max(errors(found, wanted)) < TOLERANCE
    assert {"forward", "prepare", "backward_q", "backward_kv"} <= {launch.kernel.entry for launch in launches}


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

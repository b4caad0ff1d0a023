"""Every schedule of the Hopper kernels is right in the simulator, and needs every call that orders memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from attncc.emit.triton.program import TritonProgram
from attncc.schedule import gluon as schedules
from tests.gluon.launch import Launch, simulated
from tests.gluon.mutants import mutants
from tests.gluon.simulator import Fault
from tests.runtime.triton.cases import dense, errors, gallery_case, outcome, triton
from tests.share import SHARE

#: bfloat16 holds 8 bits; weights and gradients of scores are rounded to it once each, and results once more.
TOLERANCE = 3 * 2**-8
#: More tiles than any ring has stages, the last of them cut by the end of the sequence.
LENGTH = 520
ORDERING = ("named_barrier", "acquire", "release")

PASSES = [(name, dim, i) for name, rows in schedules.ROWS.items() for dim, row in rows.items() for i in range(len(row))]
CHOICES = sorted({(dim, i) for _, dim, i in PASSES})
SLOW = ["nobody", "produce", "consume[0]", "consume[1]", "reduce", "transfers"]
#: Each choice with every slow part; in `make test` with two of them.
PACES = [
    (dim, i, slow) for at, (dim, i) in enumerate(CHOICES) for slow in (SLOW * 2)[at : at + (6 if SHARE == 1 else 2)]
]


def choose(dim: int, i: int, *, one_pass: bool) -> Any:
    """What runs every pass under its choice of this number, or its last; backward in one pass or in two."""

    def settle(program: TritonProgram) -> TritonProgram:
        rows = {name: found[dim] for name, found in schedules.ROWS.items() if dim in found}
        chosen: dict[str, Any] = {name: row[min(i, len(row) - 1)] for name, row in rows.items()}
        chosen["backward"] = (chosen["backward"],) if one_pass and "backward" in chosen else ()
        return program.rescheduled(replace(program.schedules, **chosen))

    return settle


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize(("dim", "i", "slow"), PACES)
def test_kernels_are_right_however_slow_a_part_is(dim: int, i: int, slow: str, one_pass: bool):
    name = ("causal", "documents", "full")[(i + SLOW.index(slow)) % 3]
    case = gallery_case(name, 260, dim=dim, value_dim=dim, batch=1, heads=2, group=2)
    with simulated(seed=i, slow=(slow,), settle=choose(dim, i, one_pass=one_pass)) as launches:
        found = outcome(triton(case), *case.tensors(torch.bfloat16))
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    assert max(errors(found, wanted)) < TOLERANCE
    assert any(launch.kernel.gluon for launch in launches)


@cache
def launches_of(dim: int, one_pass: bool) -> dict[str, Launch]:
    """Launches of the first schedules, forward by one program that takes all tiles in turn."""
    case = gallery_case("causal", LENGTH, dim=dim, value_dim=dim, batch=1, heads=1, group=1)
    with simulated(settle=choose(dim, 0, one_pass=one_pass)) as launches:
        outcome(triton(case), *case.tensors(torch.bfloat16))
    found = {launch.kernel.entry: launch for launch in launches if launch.kernel.gluon}
    return {name: replace(one, grid=(1, 1, 1)) if name == "forward" else one for name, one in found.items()}


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        *[("forward", 64), ("forward", 128), ("backward_q", 64), ("backward_kv", 64), ("backward_kv", 128)],
        *[("backward", 64), ("backward", 128)][SHARE != 1 :],
    ],
)
def test_no_mutant_of_the_kernels_survives(name: str, dim: int):
    launch = launches_of(dim, name == "backward")[name]
    text = launch.kernel.source.text
    assert launch.again(text, seed=1)
    survivors = [one.name for one in mutants(text, ORDERING) if not caught(launch, one.text)]
    # V has as many stages as K here and is freed before K, so that the barriers of K would do for both.
    assert [one for one in survivors if not (name == "backward_q" and "v_empty" in one)] == []


def caught(launch: Launch, text: str) -> bool:
    try:
        return not launch.again(text, seed=1)
    except Fault:
        return True

"""Every schedule of a Gluon kernel, compiled without a GPU, has the machine code that makes it fast."""

from __future__ import annotations

from functools import cache

import pytest

from attncc.emit.triton.program import OWN_KEYS
from attncc.runtime import triton_build
from attncc.runtime.triton_fit import GLUON_SPILLS, ONE_PASS_SPILLS
from attncc.schedule.gluon import ROWS, GluonSchedule
from attncc.schedule.triton import SHARED_LIMITS
from tests.gluon.inspect import Inspection, inspect_ptx
from tests.gluon.rendered import Call

CASES = [(kernel, width, row) for kernel, rows in ROWS.items() for width, each in rows.items() for row in each]
IDS = [f"{kernel}-{width}-{row.tile_q}x{row.tile_kv}" for kernel, width, row in CASES]
#: Rows that a product instruction takes at a time of what it sums over.
DEPTH = 16
MASK = "causal"  # two loops where a pass has two, tiles that are cut, and tiles that are not


@cache
def inspected(kernel: str, width: int, row: GluonSchedule) -> Inspection:
    emitted = Call(MASK, 200, width).emitted(kernel, row)
    made, metadata = triton_build._compile(emitted.kernel, "sm_90")
    return inspect_ptx(str(made["ptx"]), int(metadata["shared"]))


@pytest.mark.parametrize(("kernel", "width", "row"), CASES, ids=IDS)
def test_products_run_beside_each_other_and_nothing_spills(kernel, width, row):
    found = inspected(kernel, width, row)
    assert found.messages == ()
    assert not found.serialized
    assert found.spill_stores <= (ONE_PASS_SPILLS if kernel == "backward" else GLUON_SPILLS)
    assert found.shared <= SHARED_LIMITS["sm_90"] * 1024


@pytest.mark.parametrize(("kernel", "width", "row"), CASES, ids=IDS)
def test_every_product_is_an_instruction_of_the_tensor_cores(kernel, width, row):
    found = inspected(kernel, width, row).instructions
    head = width // DEPTH
    if kernel == "forward":  # a first tile and a loop, each with a product with K and one with V
        wanted = (2 * head, 2 * row.tile_kv // DEPTH)
    elif kernel == "backward_q":  # a first product with K, and in each of two loops one with V, one with K, and dQ
        wanted = (head + 2 * 2 * head, 2 * row.tile_kv // DEPTH)
    else:  # the same with Q and the gradient of out; dK and dV
        first = head if row.pipelined else 0
        wanted = (first + 2 * 2 * head, 2 * 2 * row.tile_q // DEPTH)
    of_shared, of_registers = (row.consumers * each for each in wanted)
    if kernel == "backward":  # dQ, by a warpgroup of its own, from what the consumers stored
        of_shared += row.consumers * (width // 64) * (64 // DEPTH)
    assert (found.products_of_shared, found.products_of_registers) == (of_shared, of_registers)


@pytest.mark.parametrize(("kernel", "width", "row"), CASES, ids=IDS)
def test_the_exponentials_run_while_products_do(kernel, width, row):
    found = inspected(kernel, width, row).instructions
    each = 64 * (row.tile_q if kernel in OWN_KEYS else row.tile_kv) // 128  # weights that a thread holds
    if kernel == "forward":  # and the decay of two rows, all while the products of two tiles run
        assert found.overlapped_exponentials == (each + 2,) * row.consumers
    else:  # all behind the start of a product, none behind the wait for it
        assert {wait.exponentials for wait in found.waits} == {0, each}


@pytest.mark.parametrize(("kernel", "width", "row"), CASES, ids=IDS)
def test_warps_give_their_registers_to_those_that_compute(kernel, width, row):
    found = inspected(kernel, width, row).instructions
    assert found.loads
    assert found.stores
    assert max(found.register_changes) >= 160
    assert min(found.register_changes) == 24

"""Kernels for Hopper are compiled without a GPU, and what ptxas made of them is read from its tools."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest

from attncc.runtime.triton_version import compile_stages
from tests.gluon.cases import ADDING, KERNELS, PIPELINE, TURNS, Case
from tests.gluon.inspect import Inspection, Wait, inspect_ptx, read_code


def tile(dtype: str, *shape: int) -> str:
    """The type of a descriptor of blocks of this shape, as Triton spells it."""
    from triton.experimental.gluon import language as gl  # late: only what compiles needs Triton

    element = {"bf16": gl.bfloat16, "fp32": gl.float32}[dtype]
    return f"tensordesc<{dtype}{list(shape)},{gl.NVMMASharedLayout.get_default_for(list(shape), element)!r}>"


def signature(case: Case) -> dict[str, str]:
    """The types of a kernel's arguments."""
    match case.file:
        case "pipeline":
            descriptors = dict.fromkeys(("a_desc", "b_desc", "out_desc"), tile("bf16", 64, 64))
            return {**descriptors, "rows": "i32", "inner": "i32"}
        case "turns":
            descriptors = dict.fromkeys(("q_desc", "k_desc", "v_desc", "out_desc"), tile("bf16", 1, 1, 64, 64))
            return {**descriptors, "lse_ptr": "*fp32", "q_len": "i32", "kv_len": "i32", "scale": "fp32"}
        case _:
            descriptors = dict.fromkeys(("x_desc", "w_desc"), tile("bf16", 64, 64))
            return {**descriptors, "out_desc": tile("fp32", 64, 64), "rows": "i32"}


@cache
def compiled(case: Case) -> tuple[str, int]:
    """The PTX of a kernel, and its bytes of shared memory."""
    spec = importlib.util.spec_from_file_location(case.file, KERNELS / f"{case.file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernel = getattr(module, case.entry)
    made, metadata = compile_stages(kernel, signature(case), {}, [], "sm_90", {"num_warps": 4}, gluon=True)
    return str(made["ptx"]), int(metadata["shared"])


@cache
def inspected(case: Case) -> Inspection:
    return inspect_ptx(*compiled(case))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.file) for case in (PIPELINE, TURNS, ADDING)])
def test_kernels_of_the_simulator_compile_without_spills_or_serialized_products(case: Case):
    found = inspected(case)
    assert (found.spill_stores, found.spill_loads, found.instructions.local_accesses) == (0, 0, 0)
    assert found.messages == ()
    assert not found.serialized
    assert 0 < found.registers <= 255
    assert 48 * 1024 < found.shared < 227 * 1024


def test_products_are_counted_by_where_their_left_operand_lies():
    # 64 columns of the inner dimension are 4 instructions; two consumers each
    instructions = inspected(PIPELINE).instructions
    assert (instructions.products_of_shared, instructions.products_of_registers) == (8, 0)
    instructions = inspected(TURNS).instructions
    assert (instructions.products_of_shared, instructions.products_of_registers) == (8, 8)


def test_waits_keep_how_many_products_may_run_on():
    assert [wait.outstanding for wait in inspected(PIPELINE).instructions.waits] == [1, 0, 1, 0]
    assert [wait.outstanding for wait in inspected(TURNS).instructions.waits] == [0, 0, 0, 0]
    assert inspected(PIPELINE).instructions.overlapped_exponentials == (0, 0)


def test_exponentials_are_counted_before_the_wait_that_they_precede():
    scores, weights = inspected(TURNS).instructions.waits[:2]
    assert scores.exponentials == 0
    assert weights.exponentials >= 32  # 64 rows of 64 weights in 128 threads


def test_partitions_change_their_registers():
    changes = inspected(TURNS).instructions.register_changes
    assert 24 in changes  # the producer's
    assert 240 in changes  # the consumers'


def test_transfers_are_counted():
    assert inspected(PIPELINE).instructions.loads == 3
    assert inspected(PIPELINE).instructions.stores == 2
    assert inspected(PIPELINE).instructions.reductions == 0
    assert (inspected(ADDING).instructions.stores, inspected(ADDING).instructions.reductions) == (0, 1)


def test_products_whose_results_are_read_too_early_are_serialized():
    ptx, shared = compiled(TURNS)
    assert "wgmma.wait_group.sync.aligned 0;" in ptx
    found = inspect_ptx(ptx.replace("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;"), shared)
    assert found.serialized
    assert any("C75" in message and "serialized" in message for message in found.messages)


def test_ptx_that_does_not_assemble_is_refused_with_the_message_of_ptxas():
    with pytest.raises(ValueError, match="ptxas failed"):
        inspect_ptx(".version 8.7\n.target sm_90a\nnonsense\n", 0)


def test_exponentials_between_two_waits_overlap_the_last_product():
    wait = "        /*5370*/                   WARPGROUP.DEPBAR.LE gsb0, {} ;\n"
    exponential = "        /*5380*/                   MUFU.EX2 R24, R25 ;\n"
    product = "        /*3e40*/                   HGMMA.64x128x16.F32.BF16 R24, {}, RZ, !UPT ;\n"
    code = product.format("gdesc[UR12]") + product.format("R180, gdesc[UR12].tnspB") + exponential
    code += wait.format("0x1") + 66 * exponential + ".L_x_11:\n" + wait.format("0x0") + 2 * exponential
    found = read_code(code)
    assert found.waits == (Wait(1, 1), Wait(0, 66))
    assert found.overlapped_exponentials == (66,)
    assert (found.products_of_shared, found.products_of_registers) == (1, 1)


def test_spills_are_seen():
    found = read_code("        /*5370*/      STL [R1+0x4], R24 ;\n        /*5380*/      LDL.64 R24, [R1] ;\n")
    assert found.local_accesses == 2

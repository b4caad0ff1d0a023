"""How Triton kernels are scheduled: by the mask, the heads and the dtype, within a GPU's shared memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc import pipeline
from attncc.errors import InputError
from attncc.frontend.parse import parse
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.triton import ROWS, SHARED_LIMITS, choose_triton_schedules, rows_of, shared_bytes

PLAIN = Problem("bfloat16", 128, 128, 8, 8, gradients=Gradients())
GROUPED = replace(PLAIN, kv_heads=2)
AMPERE, HOPPER, BLACKWELL = (Target("triton", "cuda", arch) for arch in ("sm_80", "sm_90", "sm_100"))


def row(schedule):
    return schedule.tile_q, schedule.tile_kv, schedule.num_warps, schedule.num_stages


@pytest.mark.parametrize("target", SHARED_LIMITS)
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 192, 256])
@pytest.mark.parametrize("tabulated", [False, True])
def test_no_choice_needs_more_shared_memory_than_there_is(target, dim, tabulated):
    for dtype in ("bfloat16", "float32"):
        problem = replace(PLAIN, dtype=dtype, head_dim=dim, value_dim=dim)
        found = choose_triton_schedules(problem, Target("triton", "cuda", target), tabulated).without_gluon("")
        for name in ROWS:
            for each in found.choices(name)[:-1]:
                assert shared_bytes(row(getattr(each, name)), problem, name) <= SHARED_LIMITS[target] * 1024


def test_grouped_heads_leave_the_pass_over_keys_fewer_registers():
    assert rows_of("backward_kv", GROUPED, False)[0] != rows_of("backward_kv", PLAIN, False)[0]
    assert rows_of("forward", GROUPED, False) == rows_of("forward", PLAIN, False)


def test_tables_of_tiles_are_walked_in_low_tiles():
    assert rows_of("forward", PLAIN, True)[0] == (64, 32, 4, 3)
    documents = parse("attn 1\nattention own:\n  capture ids: int[kv_len]\n  mask = ids[q_idx] == ids[kv_idx]\n")
    causal = parse("attn 1\nattention own:\n  mask = q_idx >= kv_idx\n")
    chosen = []
    for spec, kinds in ((documents, ("int64",)), (causal, ())):
        lowered = pipeline.lower(spec, replace(PLAIN, capture_dtypes=kinds, gradients=None), AMPERE)
        chosen.append(row(lowered.triton_forward.schedules.forward))
    assert chosen == [(64, 32, 4, 3), (128, 64, 8, 3)]


def test_tile_sizes_that_are_asked_for_are_taken_or_refused():
    asked = choose_triton_schedules(replace(PLAIN, tile_q=32, tile_kv=16), AMPERE)
    assert (asked.forward.tile_q, asked.forward.tile_kv) == (32, 16)
    with pytest.raises(InputError, match="block_m is 48"):
        choose_triton_schedules(replace(PLAIN, tile_q=48), AMPERE)


def test_the_first_choice_says_why():
    reasons = " ".join(choose_triton_schedules(PLAIN, BLACKWELL).without_gluon("").backward_q.reasons)
    assert "H100" in reasons
    assert "fastest of those measured" in reasons


def test_on_hopper_products_begin_ahead():
    found = choose_triton_schedules(PLAIN, HOPPER)
    assert found.forward.ahead
    assert not choose_triton_schedules(PLAIN, BLACKWELL).forward.ahead
    assert "begins a product of the next tile" in " ".join(found.forward.reasons)
    assert not choose_triton_schedules(replace(PLAIN, dtype="float32"), HOPPER).forward.ahead

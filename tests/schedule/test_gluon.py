"""Where Hopper's Gluon kernels run, and what is said where they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc.schedule import Problem, Target
from attncc.schedule.gluon import GluonSchedule, refusal
from attncc.schedule.triton import TritonSchedule, choose_triton_schedules

HOPPER = Target("triton", "cuda", "sm_90", gluon=True)
PROBLEM = Problem("bfloat16", 128, 128, 8, 2)


@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128])
def test_every_pass_of_16_bit_tensors_has_gluon_kernels_before_triton_s(dim):
    chosen = choose_triton_schedules(replace(PROBLEM, head_dim=dim, value_dim=dim), HOPPER)
    for name in ("forward", "backward_q", "backward_kv"):
        assert isinstance(getattr(chosen, name), GluonSchedule)
        assert any(isinstance(each, TritonSchedule) for each in dict(chosen.others)[name])
    assert isinstance(chosen.backward_pairs, TritonSchedule)


@pytest.mark.parametrize(
    ("problem", "target", "word"),
    [
        (PROBLEM, replace(HOPPER, gluon=False), "ATTNCC_GLUON"),
        (replace(PROBLEM, dtype="float32"), HOPPER, "float32"),
        (replace(PROBLEM, tile_q=64), HOPPER, "asked for"),
        (PROBLEM, replace(HOPPER, arch="sm_100"), "sm_90"),
    ],
)
def test_a_call_without_gluon_kernels_says_why(problem, target, word):
    chosen = choose_triton_schedules(problem, target)
    assert isinstance(chosen.forward, TritonSchedule)
    why = refusal("forward", problem, target)
    assert why is not None
    assert word in why
    if target.arch == "sm_90":
        assert chosen.forward.reasons[-1] == f"plain Triton: {why}"


def test_a_pass_without_gluon_kernels_is_triton_s_beside_others_that_have_them():
    chosen = choose_triton_schedules(replace(PROBLEM, head_dim=256, value_dim=256), HOPPER)
    assert isinstance(chosen.forward, GluonSchedule)
    assert isinstance(chosen.backward_kv, TritonSchedule)
    assert "heads of 256" in chosen.backward_kv.reasons[-1]


def test_tensors_that_the_tma_does_not_take_have_triton_kernels():
    before = choose_triton_schedules(PROBLEM, HOPPER)
    chosen = before.without_gluon("the TMA does not take them")
    assert (before.has_gluon, chosen.has_gluon) == (True, False)
    assert isinstance(chosen.forward, TritonSchedule)
    assert chosen.forward.reasons[-1] == "plain Triton: the TMA does not take them"
    for _, further in chosen.others:
        assert all(isinstance(each, TritonSchedule) for each in further)


def test_the_output_goes_over_the_queries_only_where_both_are_as_wide():
    for value_dim in (64, 256):
        chosen = choose_triton_schedules(replace(PROBLEM, head_dim=256, value_dim=value_dim), HOPPER)
        assert isinstance(chosen.forward, GluonSchedule) == (value_dim == 256)

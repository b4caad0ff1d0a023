"""Schedules that tuning found: kept for a device and a kernel, and preferred by later programs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc import pipeline
from attncc.frontend.parse import parse
from attncc.runtime.cache import Store
from attncc.runtime.tuned import Winner, all_winners, forget, keep, with_winners
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.gluon import GluonSchedule
from attncc.schedule.triton import TritonSchedule

PROBLEM = Problem("bfloat16", 64, 64, 8, 8, gradients=Gradients())
TARGET = Target("triton", "cuda", "sm_90")
DEVICE = "NVIDIA H100 80GB HBM3"
FAST = TritonSchedule(64, 32, 8, 3)


def programs(text="q_idx >= kv_idx", problem=PROBLEM):
    lowered = pipeline.lower(parse(f"attn 1\nattention own:\n  mask = {text}\n"), problem, TARGET)
    return lowered.triton_forward(), lowered.triton_backward()


def winner(name="forward", schedule=FAST, device=DEVICE):
    return Winner("own", name, device, schedule, 0.5, 0.625, 24, "2026-11-23", "bfloat16, B2 H8/8 S8192x8192 D64")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def test_a_winner_becomes_the_first_choice_with_its_reason(store):
    forward, _ = programs()
    keep(forward, winner(), store)
    found = with_winners(forward, DEVICE, store)
    assert replace(found.schedules.forward, reasons=()) == FAST
    assert "TILE_KV = tl.constexpr(32)" in found.passes["forward"].kernel.source.text
    assert found.passes["forward"].kernel.num_warps == 8
    (reason,) = found.schedules.forward.reasons
    assert f"tuned on {DEVICE} 2026-11-23" in reason
    assert "0.625 ms for the choice of the tables" in reason


def test_the_choices_of_the_tables_come_next(store):
    forward, _ = programs()
    keep(forward, winner(), store)
    choices = [each.forward for each in with_winners(forward, DEVICE, store).schedules.choices("forward")]
    assert choices[1:] == [each.forward for each in forward.schedules.choices("forward")]


@pytest.mark.parametrize("name", ["backward_q", "backward_kv"])
def test_each_pass_has_its_own_winner(store, name):
    _, backward = programs()
    keep(backward, winner(name), store)
    found = with_winners(backward, DEVICE, store)
    other = {"backward_q": "backward_kv", "backward_kv": "backward_q"}[name]
    assert replace(getattr(found.schedules, name), reasons=()) == FAST
    assert getattr(found.schedules, other) == getattr(backward.schedules, other)


def test_a_winner_serves_no_other_device_variant_or_dtype(store):
    forward, backward = programs()
    keep(forward, winner(), store)
    assert with_winners(forward, "NVIDIA A100", store) is forward
    assert with_winners(backward, DEVICE, store) is backward
    for other in (programs("q_idx > kv_idx")[0], programs(problem=replace(PROBLEM, dtype="float32"))[0]):
        assert with_winners(other, DEVICE, store) is other


def test_tile_sizes_that_are_asked_for_stay(store):
    asked, _ = programs(problem=replace(PROBLEM, tile_q=64, tile_kv=64))
    keep(asked, winner(), store)
    assert with_winners(asked, DEVICE, store) is asked


def test_tuning_again_replaces_a_winner(store):
    forward, _ = programs()
    keep(forward, winner(), store)
    keep(forward, winner(schedule=TritonSchedule(128, 32, 4, 2)), store)
    assert with_winners(forward, DEVICE, store).schedules.forward.tile_q == 128
    assert len(all_winners(store)) == 1


def test_winners_are_listed_and_forgotten(store):
    forward, backward = programs()
    keep(forward, winner(), store)
    keep(backward, winner("backward_q"), store)
    found = all_winners(store)
    assert [each for _, each in found] == [winner("backward_q"), winner()]
    forget([key for key, each in found if each.name == "forward"], store)
    assert with_winners(forward, DEVICE, store) is forward
    assert len(all_winners(store)) == 1


def test_schedules_of_gluon_kernels_are_kept_too(store):
    forward, _ = programs()
    fast = GluonSchedule(128, 64, 2, 2, named_empties=True)
    keep(forward, winner(schedule=fast), store)
    ((_, found),) = all_winners(store)
    assert found.schedule == fast
    assert "2 warpgroups, Gluon, 2 stages: tuned on" in found.reason


def test_other_entries_of_the_cache_are_no_winners(store):
    store.publish({"kind": "self-test"}, {"variant": "own"}, {})
    assert all_winners(store) == []

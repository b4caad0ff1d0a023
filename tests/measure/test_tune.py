"""Choosing the fastest schedule, with times that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc import pipeline
from attncc.frontend.parse import parse
from attncc.measure.tune import Trial, Tuning, tune_pass
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.candidates import candidates
from attncc.schedule.triton import SHARED_LIMITS, TritonSchedule, shared_bytes

SPEC = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
PROBLEM = Problem("bfloat16", 64, 64, 8, 8, gradients=Gradients())
TARGET = Target("triton", "cuda", "sm_90")


def program(name="forward"):
    lowered = pipeline.lower(SPEC, PROBLEM, TARGET)
    return lowered.triton_forward() if name == "forward" else lowered.triton_backward()


def row(schedule):
    return schedule.tile_q, schedule.tile_kv, schedule.num_warps, schedule.num_stages


def all_fit(programs, name):
    return [None] * len(programs)


@pytest.mark.parametrize("name", ["forward", "backward_q", "backward_kv"])
def test_the_fastest_choice_wins(name):
    own = program(name)
    wanted = row(getattr(own.schedules.choices(name)[2], name))
    seen = []

    def measure(candidate):
        seen.append(row(getattr(candidate.schedules, name)))
        return 1.0 if seen[-1] == wanted else 2.0

    found = tune_pass(own, name, (), all_fit, measure)
    assert row(found.best.schedule) == wanted
    assert row(found.first.schedule) == seen[0] == row(getattr(own.schedules, name))
    assert len(found.timed) == len(own.schedules.choices(name))


def test_further_choices_are_tried_once_each():
    own = program()
    twice = TritonSchedule(*row(own.schedules.forward))
    other = TritonSchedule(32, 32, 4, 1)
    found = tune_pass(own, "forward", (twice, other, other), all_fit, lambda candidate: 1.0)
    assert [row(trial.schedule) for trial in found.trials].count(row(other)) == 1
    assert len(found.trials) == len(own.schedules.choices("forward")) + 1


def test_what_does_not_fit_is_not_timed():
    timed = []
    fit = lambda programs, name: ["spills 8 bytes", *[None] * (len(programs) - 1)]  # noqa: E731  # one line
    found = tune_pass(program(), "forward", (), fit, lambda candidate: timed.append(1) or 1.0)
    assert found.trials[0].note == "spills 8 bytes"
    assert found.first is found.trials[1]
    assert len(timed) == len(found.trials) - 1


def test_a_choice_that_fails_loses():
    def measure(candidate):
        if row(candidate.schedules.forward) == row(program().schedules.forward):
            raise RuntimeError("out of memory\nand more")
        return 3.0

    found = tune_pass(program(), "forward", (), all_fit, measure)
    assert found.trials[0].note == "out of memory"
    assert found.best is found.trials[1]


def test_a_hair_faster_is_no_reason_to_leave_the_tables():
    one, other = (TritonSchedule(64, 64, 4, stages) for stages in (1, 2))
    assert Tuning("forward", (Trial(one, 1.0), Trial(other, 0.995))).best.schedule is one
    assert Tuning("forward", (Trial(one, 1.0), Trial(other, 0.9))).best.schedule is other
    assert Tuning("forward", (Trial(one, note="spills"),)).best is None


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120", "gfx942"])
@pytest.mark.parametrize("name", ["forward", "backward_q", "backward_kv", "backward_pairs"])
def test_every_candidate_fits_into_shared_memory(name, arch):
    limit = SHARED_LIMITS.get(arch, 64) * 1024
    found = candidates(name, PROBLEM, Target("triton", "cuda", arch))
    assert found
    assert all(shared_bytes(row(each), PROBLEM, name) <= limit for each in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["forward", "backward_q", "backward_kv", "backward_pairs"])
@pytest.mark.parametrize("dim", [64, 80, 256])
def test_candidates_of_float32_unroll_no_more_than_registers_hold(name, dim):
    wide = replace(PROBLEM, dtype="float32", head_dim=dim, value_dim=dim)
    found = {row(each) for each in candidates(name, wide, TARGET)}
    width = {64: 64, 80: 128, 256: 256}[dim]
    assert all(tile_q * tile_kv * width <= 1024 * 32 * warps for tile_q, tile_kv, warps, _ in found)
    assert {(32, 16, 8, 1), (16, 16, 8, 1)} <= found

"""Kernels of a pass are built together, and the first schedule that fits is taken."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from attncc import pipeline
from attncc.errors import CompileError
from attncc.frontend.parse import parse
from attncc.runtime import triton_build, triton_fit
from attncc.runtime.binary import Resources
from attncc.runtime.triton_build import Built
from attncc.schedule import Gradients, Problem, Target

PROBLEM = Problem("bfloat16", 64, 64, 8, 8, gradients=Gradients())


def program():
    spec = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
    return pipeline.lower(spec, PROBLEM, Target("triton", "cuda", "sm_80")).triton_backward()


def built(spills=0, shared=0):
    return Built("", "", "sm_80", (), 4, 1, Resources(0, spills, shared), {}, b"")


def test_kernels_of_a_pass_are_compiled_at_the_same_time(monkeypatch):
    own = program()
    together = threading.Barrier(len(own.passes))
    seen = []

    def build(kernel, target):
        together.wait(60)  # breaks if one waits for another
        seen.append(kernel.entry)

    monkeypatch.setattr(triton_build, "is_built", lambda kernel, target: kernel.entry == "nothing")
    monkeypatch.setattr(triton_build, "build", build)
    triton_fit.build_together(triton_fit.unbuilt(own, "sm_80"), "sm_80")
    assert sorted(seen) == ["backward_kv", "backward_q", "prepare"]


def test_what_cannot_be_built_is_left_to_whoever_asks_for_it(monkeypatch):
    def build(kernel, target):
        raise CompileError("refused")

    monkeypatch.setattr(triton_build, "build", build)
    triton_fit.build_together([each.kernel for each in program().passes.values()], "sm_80")
    with pytest.raises(CompileError, match="refused"):
        triton_fit.settle_for(program(), "sm_80", build)


def test_nothing_is_compiled_ahead_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert triton_fit.unbuilt(program(), "sm_80") == []


def test_only_what_is_missing_is_compiled_ahead_and_announced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(triton_fit.launch, "target_of", lambda index: "sm_80")
    monkeypatch.setattr(triton_fit, "settle_for", lambda program, target: program)
    compiled, announced, missing = [], [], ["backward_q"]
    monkeypatch.setattr(triton_build, "is_built", lambda kernel, target: kernel.entry not in missing)
    monkeypatch.setattr(triton_build, "build", lambda kernel, target: compiled.append(kernel.entry))
    device, own = torch.device("cuda", 0), program()
    triton_fit.settle(own, device, lambda program, device: announced.append((program, device)))
    missing.clear()
    triton_fit.settle(own, device, lambda program, device: announced.append((program, device)))
    assert compiled == ["backward_q"]
    assert announced == [(own, "cuda:0")]


def test_a_schedule_that_spills_gives_way_to_the_next():
    own = program()
    first = own.passes["backward_q"].kernel
    settled = triton_fit.settle_for(own, "sm_80", lambda kernel, target: built(8 if kernel == first else 0))
    assert settled.schedules.backward_q == own.schedules.choices("backward_q")[1].backward_q
    assert settled.schedules.backward_kv == own.schedules.backward_kv


@pytest.mark.parametrize(("processors", "compiled"), [(2, 2), (16, 5)])
def test_where_the_first_choice_does_not_fit_several_others_are_compiled_at_once(monkeypatch, processors, compiled):
    own = program()
    first = own.passes["backward_kv"].kernel
    seen, lock, together = [first], threading.Lock(), threading.Barrier(compiled - 1)

    def build(kernel, target):
        with lock:
            is_new = kernel.entry == "backward_kv" and kernel not in seen
            seen.extend([kernel] * is_new)
        if is_new:
            together.wait(60)  # breaks if one waits for another
        return built(8 if kernel == first else 0)

    monkeypatch.setattr(triton_fit.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(triton_build, "is_built", lambda kernel, target: kernel.entry != "backward_kv")
    monkeypatch.setattr(triton_build, "build", build)
    settled = triton_fit.settle_for(own, "sm_80", build)
    assert settled.schedules.backward_kv == own.schedules.choices("backward_kv")[1].backward_kv
    assert len(seen) == compiled


def test_a_misfit_says_why():
    own = program()
    assert triton_fit.misfit(own, "backward_q", "sm_80", lambda kernel, target: built()) is None
    assert triton_fit.misfit(own, "backward_q", "sm_80", lambda kernel, target: built(spills=8)) == "spills 8 bytes"
    large = triton_fit.misfit(own, "backward_q", "sm_80", lambda kernel, target: built(shared=1 << 20))
    assert large == "needs 1048576 bytes of shared memory"


def test_only_float32_kernels_backward_with_large_heads_may_spill_and_little():
    own = program()

    def spilling(spills, **changes):
        wide = replace(own, variant=replace(own.variant, problem=replace(PROBLEM, **changes)))
        return triton_fit.misfit(wide, "backward_q", "sm_80", lambda kernel, target: built(spills=spills)) is None

    assert spilling(64, dtype="float32", head_dim=256)
    assert not spilling(72, dtype="float32", head_dim=256)
    assert not spilling(8, dtype="float32", head_dim=128)
    assert not spilling(8, head_dim=256)

"""Kernels of a pass are built together, and the first schedule that fits is taken."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from attncc import pipeline
from attncc.errors import CompileError, UnsupportedError
from attncc.frontend.parse import parse
from attncc.runtime import triton_build, triton_fit, triton_version
from attncc.runtime.binary import Resources
from attncc.runtime.triton_build import Built, CompilerFailure
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.gluon import ONE_PASS

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


def failing(own, *failed):
    """Builds all but these kernels, on which the compiler fails."""

    def build(kernel, target):
        if kernel in failed:
            raise CompilerFailure("Triton 3.6.0 fails on the kernel, at ttgir: PassManager::run failed\nin detail")
        return built()

    return build


def test_a_schedule_on_which_the_compiler_fails_gives_way_to_the_next_which_says_so(caplog):
    own = program()
    others = [own.rescheduled(each) for each in own.schedules.choices("backward_q")]
    first, second, third = (each.passes["backward_q"].kernel for each in others[:3])
    settled = triton_fit.settle_for(own, "sm_80", failing(own, first, second))
    assert settled.passes["backward_q"].kernel == third
    *_, one, two = settled.passes["backward_q"].schedule.reasons
    row = own.schedules.backward_q
    assert one.startswith(f"not tiles of {row.tile_q} queries x {row.tile_kv} keys, {row.num_warps} warps")
    assert one.endswith("Triton 3.6.0 fails on the kernel, at ttgir: PassManager::run failed")
    assert two.startswith("not tiles of ")
    assert " ".join(two.split()) in " ".join(settled.passes["backward_q"].source.text.split())
    assert settled.schedules.backward_kv == own.schedules.backward_kv
    assert "backward_q gives way: tiles of" in caplog.text


def test_where_the_compiler_fails_on_every_schedule_all_reasons_are_given():
    own = program()
    every = [own.rescheduled(each).passes["backward_kv"].kernel for each in own.schedules.choices("backward_kv")]
    with pytest.raises(CompileError, match="causal: no schedule of backward_kv can run on sm_80") as caught:
        triton_fit.settle_for(own, "sm_80", failing(own, *every))
    assert caught.value.message.count("PassManager::run failed") == len(every)


def test_a_kernel_whose_text_is_refused_is_an_error_at_once():
    own, asked = program(), []

    def build(kernel, target):
        asked.append(kernel)
        raise CompileError("Triton refuses line 3")

    with pytest.raises(CompileError, match="line 3"):
        triton_fit.settle_for(own, "sm_80", build)
    assert len(asked) == 1


def test_one_pass_on_which_the_compiler_fails_gives_way_to_two_that_say_so():
    spec = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
    own = pipeline.lower(spec, PROBLEM, Target("triton", "cuda", "sm_90", gluon=True)).triton_backward()
    every = [own.rescheduled(each) for each in own.schedules.choices(ONE_PASS)]
    failed = [each.passes[ONE_PASS].kernel for each in every if ONE_PASS in each.passes]
    assert failed
    settled = triton_fit.settle_for(own, "sm_90", failing(own, *failed))
    assert "backward_q" in settled.passes
    assert any("PassManager" in reason for reason in settled.passes["backward_kv"].schedule.reasons)


def test_no_schedule_that_needs_more_shared_memory_than_there_is_is_taken():
    with pytest.raises(CompileError, match="needs 1048576 bytes of shared memory"):
        triton_fit.settle_for(program(), "sm_80", lambda kernel, target: built(shared=1 << 20))


def test_where_nothing_may_be_compiled_a_choice_that_is_there_serves(monkeypatch):
    own = program()
    second = own.rescheduled(own.schedules.choices("backward_q")[1])

    def build(kernel, target):
        if kernel == own.passes["backward_q"].kernel:
            raise UnsupportedError("it is not in the pack")
        return built()

    with pytest.raises(UnsupportedError, match="not in the pack"):  # as during a capture
        triton_fit.settle_for(own, "sm_80", build)
    monkeypatch.setattr(triton_build, "compile_refusal", lambda: "ATTNCC_DISABLE_JIT forbids it")
    assert triton_fit.settle_for(own, "sm_80", build).schedules == second.schedules


def test_what_no_choice_has_is_refused_as_the_first(monkeypatch):
    def build(kernel, target):
        raise UnsupportedError(f"{kernel.num_warps} warps")

    monkeypatch.setattr(triton_build, "compile_refusal", lambda: "ATTNCC_DISABLE_JIT forbids it")
    own = program()
    with pytest.raises(UnsupportedError, match=f"{own.schedules.backward_q.num_warps} warps"):
        triton_fit.settle_for(own, "sm_80", build)


def test_a_stage_that_fails_is_told_from_a_text_that_is_refused(monkeypatch):
    kernel = program().passes["prepare"].kernel

    def stages(*_):
        raise triton_version.StageError("ttgir") from RuntimeError("PassManager::run failed")

    monkeypatch.setattr(triton_version, "compile_stages", stages)
    with pytest.raises(CompilerFailure, match=r"fails on the kernel prepare for sm_80, at ttgir: PassManager::run"):
        triton_build.compile_kernel(kernel, "sm_80")


def test_a_kernel_on_which_the_compiler_failed_is_not_compiled_again(monkeypatch):
    kernel, asked = program().passes["prepare"].kernel, []

    def compile_entry(kernel, target):
        asked.append(kernel)
        raise CompilerFailure("no")

    monkeypatch.setattr(triton_build, "_failed", {})
    monkeypatch.setattr(triton_build, "compile_entry", compile_entry)
    for _ in range(3):
        with pytest.raises(CompilerFailure, match="no"):
            triton_build.build(replace(kernel, num_warps=2), "sm_80")
    assert len(asked) == 1


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

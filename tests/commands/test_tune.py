"""`attncc tune` as users start it, on a machine without a GPU and with measurements that are made up."""

from __future__ import annotations

import pytest
import torch

from attncc import pipeline
from attncc.frontend.parse import parse
from attncc.measure.tune import Trial, Tuning
from attncc.runtime.cache import default_store
from attncc.runtime.tuned import Winner, keep
from attncc.schedule import Problem, Target
from attncc.schedule.triton import TritonSchedule
from tests.commands.runner import attncc

SLOW, FAST = TritonSchedule(128, 64, 4, 3), TritonSchedule(64, 32, 8, 3)


@pytest.fixture
def kept(fresh_settings, monkeypatch, tmp_path):
    """A cache with one winner."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    default_store.cache_clear()
    spec = parse("attn 1\nattention own:\n  mask = q_idx >= kv_idx\n")
    forward = pipeline.lower(spec, Problem("bfloat16"), Target("triton", "cuda", "sm_90")).triton_forward()
    keep(forward, Winner("own", "forward", "H100", FAST, 0.5, 0.625, 24, "2026-11-23", "bfloat16, B2"))
    yield
    default_store.cache_clear()


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = attncc("tune", "causal")
    assert done.code == 1
    assert "this machine has none" in done.err


def test_a_variant_has_to_be_named():
    assert "which variant?" in attncc("tune").err


def test_winners_are_listed(kept):
    done = attncc("tune", "--list")
    assert "64 x 32" in done.out
    assert "2026-11-23" in done.out
    (found,) = attncc("tune", "--list", "own", "--json").json
    assert (found["variant"], found["name"], found["ms"], found["schedule"]["num_warps"]) == ("own", "forward", 0.5, 8)
    assert attncc("tune", "--list", "other", "--json").json == []


def test_winners_are_forgotten(kept):
    assert "0 schedules removed" in attncc("tune", "--clear", "other").err
    assert "1 schedule removed" in attncc("tune", "--clear").err
    assert attncc("tune", "--list", "--json").json == []


def test_each_variant_and_head_size_is_tuned(monkeypatch):
    asked = []

    def tune_here(problem, dtype, names, every, budget_ms, observe):
        asked.append((problem.variant.name, problem.shape.head_dim, dtype, tuple(names), every))
        trials = (Trial(SLOW, 2.0), Trial(FAST, 1.0), Trial(FAST, note="spills 8 bytes"))
        for trial in trials:
            observe("forward", trial)
        return [Tuning("forward", trials)]

    monkeypatch.setattr("attncc.measure.gpu.tune_here", tune_here)
    monkeypatch.setattr("attncc.commands.tune._has_gpu", lambda: True)
    monkeypatch.setattr("attncc.commands.bench.read_device", lambda device: "cpu")
    done = attncc(
        "tune", "causal", "-D", "64,128", "-q", 64, "--effort", "full", "--pass", "forward", "--dtype", "fp16"
    )
    assert asked == [("causal", dim, "float16", ("forward",), True) for dim in (64, 128)]
    assert done.out.count("64 x 32") == 2
    assert "64 x 32, 8 warps, 3 stages: spills 8 bytes" in done.err

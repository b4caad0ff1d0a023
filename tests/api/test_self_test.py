"""Newly built kernels are tried before their first use: wrong ones are found, right ones are not accused."""

from __future__ import annotations

import json
import os

import pytest

from attncc.variants.gallery import gallery
from tests.interpreter import interpreted

#: A variant, the kernel that is made wrong, what stands there and what is planted.
MISTAKES = (
    ("causal", "forward", "q_idx >= kv_idx", "q_idx > kv_idx"),
    ("full", "forward", "(kv_row < kv_len)[None, :]", "(kv_row <= kv_len)[None, :]"),
    ("soft_cap", "forward", "1.0 - 2.0 /", "1.0 - 2.1 /"),
    ("causal", "backward_q", "(grad_weight - delta)", "(grad_weight + delta)"),
    ("causal", "backward_kv", "grad_k * scale", "grad_k"),
    ("relative_bias", "backward_diagonal", "(grad_weight - delta)", "(grad_weight + delta)"),
)
RIGHT = ("causal", "alibi", "documents", "sliding_window", "relative_bias", "t5_bias", "windowed_soft_cap", "prefix_lm")


def made(name: str, backward: bool):
    """A pass of a variant with its kernels, and a trial for them."""
    import torch

    from attncc import pipeline
    from attncc.api import self_test
    from attncc.runtime import op
    from attncc.runtime.triton_attention import TritonPass
    from attncc.schedule import Gradients, Target
    from tests.runtime.triton.cases import gallery_case

    torch.set_num_threads(1)
    self_test.LENGTHS = (21, 50)
    case = gallery_case(name, 64, heads=2, group=2)
    own, captures = case.tensors(torch.float32)
    floats = tuple(c.is_floating_point() for c in captures)
    gradients = Gradients(captures=floats) if backward else None
    problem = op.problem_of([*own, *captures], case.parameters, gradients, 16, 16)
    lowered = pipeline.lower(case.spec, problem, Target("triton", "cpu"))
    kernels = TritonPass(lowered.triton_backward if backward else lowered.triton_forward, torch.device("cpu"))
    loaded = kernels.load_kind(True, False)
    trial = self_test.make_trial(case.spec, loaded, own, captures, case.parameters)
    return kernels, loaded, trial


@interpreted
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_right_kernels_are_not_accused(name, backward):
    from attncc.api.self_test import refuse_wrong

    kernels, loaded, trial = made(name, backward)
    assert trial is not None
    refuse_wrong(trial, kernels, loaded)


@interpreted
@pytest.mark.parametrize(("name", "kernel", "right", "wrong"), MISTAKES)
def test_a_wrong_kernel_is_found_and_kept_and_replayed(name, kernel, right, wrong):
    from dataclasses import replace
    from pathlib import Path

    import torch

    from attncc.api.repro import read
    from attncc.api.self_test import refuse_wrong, replay
    from attncc.errors import CompileError
    from attncc.runtime.triton_kernel import make_kernel

    kernels, loaded, trial = made(name, kernel != "forward")
    emitted = loaded.program.passes[kernel]
    text = emitted.kernel.source.text
    assert right in text, text
    source = replace(emitted.kernel.source, text=text.replace(right, wrong))
    planted = replace(emitted, kernel=replace(emitted.kernel, source=source))
    loaded.kernels[kernel] = make_kernel(planted, torch.device("cpu"))
    with pytest.raises(CompileError, match=r"are wrong on cpu.*off by") as caught:
        refuse_wrong(trial, kernels, loaded)
    folder = Path(caught.value.hint.split("`")[1].split()[-1])
    again, known = read(folder)
    assert known["wrong"]
    assert again.spec == trial.spec
    assert (folder / f"{kernel}.py").is_file()
    assert all(torch.equal(a, b) for a, b in zip(again.captures, trial.captures, strict=True))
    assert all(is_right for _, is_right in replay(folder))  # the kernels themselves are right


@interpreted
def test_the_trial_has_every_kind_of_tile():
    from attncc.api import self_test

    for name in ("causal", "sliding_window", "documents"):
        _, loaded, trial = made(name, False)
        assert self_test._count_kinds(trial, loaded) >= 2


def test_the_reference_of_a_small_case_alone_runs_on_the_cpu():
    import torch

    from attncc.api.repro import Trial
    from attncc.ir import AttentionSpec

    def device(length: int, *captures: torch.Tensor) -> str:
        shape = (2, 8, 8, length, length, 64, 64)
        return Trial(AttentionSpec(), "bfloat16", shape, captures, (), "meta", 1).for_reference().device

    small, large = (torch.empty(1).expand(count) for count in (1 << 10, 1 << 23))
    assert [device(200, small), device(200, small, large), device(1000)] == ["cpu", "meta", "meta"]


def test_a_folder_that_holds_no_case_is_refused(tmp_path):
    from attncc.api.repro import read
    from attncc.errors import InputError

    with pytest.raises(InputError, match="does not hold a case"):
        read(tmp_path)
    (tmp_path / "problem.json").write_text(json.dumps({"dtype": "float32"}))
    with pytest.raises(InputError, match="does not hold a case"):
        read(tmp_path)


def test_the_names_of_these_tests_are_in_the_gallery():
    assert {*RIGHT, *(row[0] for row in MISTAKES)} <= set(gallery())
    assert os.environ["ATTNCC_CACHE_DIR"]

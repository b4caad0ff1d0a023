"""Gluon kernels as they are read."""

from __future__ import annotations

import ast

import pytest

from attncc import pipeline
from attncc.frontend import parse
from attncc.runtime import triton_build
from attncc.schedule import Gradients, Problem
from tests.gluon.rendered import HOPPER, call

PROBLEM = Problem("bfloat16", 64, 64, 4, 4, gradients=Gradients())
KERNELS = ("forward", "backward_q", "backward_kv", "backward")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["causal", "alibi", "documents"])
def test_kernels_read_well(name, kernel, golden):
    text = call(name, 200, 128).emitted(kernel).source.text
    golden("kernel.py").check(text)
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("kernel", KERNELS)
def test_warps_take_what_they_read_and_nothing_else(kernel):
    tree = ast.parse(call("alibi", 200, 128).emitted(kernel).kernel.source.text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for warps in ("consume", "produce"):
        names = [argument.arg for argument in functions[warps].args.args if argument.arg != "CONSUMER"]
        read = {node.id for node in ast.walk(functions[warps]) if isinstance(node, ast.Name)}
        assert set(names) <= read
        calls = [
            [one.id for one in node.elts[1].elts if isinstance(one, ast.Name)]
            for node in ast.walk(functions[kernel])
            if isinstance(node, ast.Tuple)
            and len(node.elts) == 2
            and isinstance(node.elts[0], ast.Name)
            and node.elts[0].id == warps
            and isinstance(node.elts[1], ast.Tuple)
        ]
        assert calls
        assert all(each == names for each in calls)


def test_what_gluon_lacks_is_a_function_of_the_kernel():
    written = parse("attn 1\nattention gate:\n  score = score * sigmoid(score) + q_idx\n")
    lowered = pipeline.lower(written, PROBLEM, HOPPER)
    for programs in (lowered.triton_forward, lowered.triton_backward):
        assert programs is not None
        for emitted in programs().passes.values():
            if emitted.kernel.gluon:
                assert emitted.kernel.source.text.count("def sigmoid(x):") == 1
                assert triton_build.compile_kernel(emitted.kernel, "sm_90").resources.shared


def test_each_reason_for_plain_triton_is_its_own():
    huge = parse("attn 1\nattention huge:\n  score = score - 1e9\n")
    lowered = pipeline.lower(huge, PROBLEM, HOPPER)
    assert lowered.triton_forward is not None
    assert lowered.triton_backward is not None
    assert lowered.triton_forward().passes["forward"].kernel.gluon
    for program, words in (
        (lowered.triton_backward(), "sums of rows are kept apart"),
        (lowered.triton_backward(False, False), "the TMA takes addresses"),
        (lowered.triton_forward(False, False), "the TMA takes addresses"),
    ):
        assert not any(emitted.kernel.gluon for emitted in program.passes.values())
        name = next(iter(program.passes))
        name = "backward_q" if name == "prepare" else name
        assert words in program.passes[name].schedule.reasons[-1]

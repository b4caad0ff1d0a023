"""The GPU's approximate `tanh` in kernels: how it is written, how often, and what compilers make of it."""

from __future__ import annotations

import ast

import pytest

from attncc import pipeline
from attncc.frontend import parse
from attncc.runtime import triton_build
from attncc.schedule import Gradients, Problem, Target

SOFT_CAP = "attn 1\nattention soft_cap:\n  score = 30.0 * tanh(score / 30.0)\n"
BOTH = "attn 1\nattention both:\n  score = 30.0 * tanh(score / 30.0) + tanh(float(kv_idx) * 0.1)\n"
NVIDIA = Target("triton", "cuda", "sm_90", fast_math=True)
PASSES = ("forward", "backward_q", "backward_kv")


def emitted(name: str, text: str = SOFT_CAP, target: Target = NVIDIA, dtype: str = "bfloat16"):
    """A kernel of a variant."""
    lowered = pipeline.lower(parse(text), Problem(dtype, gradients=Gradients()), target)
    programs = lowered.triton_forward if name == "forward" else lowered.triton_backward
    assert programs is not None
    return programs().passes[name]


def called(tree: ast.AST) -> list[str]:
    """The functions that are called by a plain name."""
    return [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]


@pytest.mark.parametrize("gluon", [False, True])
def test_it_is_a_function_with_its_error_and_taken_once_for_each_pair(gluon):
    target = Target("triton", "cuda", "sm_90", gluon=gluon, fast_math=True)
    lowered = pipeline.lower(parse(SOFT_CAP), Problem("bfloat16", gradients=Gradients()), target)
    assert lowered.triton_forward is not None
    kernel = lowered.triton_forward().passes["forward"]
    assert kernel.kernel.gluon is gluon
    tree = ast.parse(kernel.source.text)
    (function,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and "tanh" in n.name)
    assert function.name == "fast_tanh"
    assert "2**-11" in str(ast.get_docstring(function))
    assert called(tree).count("fast_tanh") == 2  # in whole tiles, and in those that the end cuts


@pytest.mark.parametrize("gluon", [False, True])
def test_the_passes_backward_keep_the_exact_formula(gluon):
    target = Target("triton", "cuda", "sm_90", gluon=gluon, fast_math=True)
    lowered = pipeline.lower(parse(SOFT_CAP), Problem("bfloat16", gradients=Gradients()), target)
    assert lowered.triton_backward is not None
    for kernel in lowered.triton_backward().passes.values():
        assert "fast_tanh" not in kernel.source.text


def test_its_kernel_reads_well(golden):
    golden("kernel.py").check(emitted("forward").source.text)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        (Target("triton", "cuda", "sm_90"), "bfloat16"),
        (NVIDIA, "float16"),
        (NVIDIA, "float32"),
        (Target("triton", "cuda", "gfx942", fast_math=True), "bfloat16"),
        (Target("triton", "cpu", fast_math=True), "bfloat16"),
    ],
    ids=["switched off", "float16", "float32", "AMD", "interpreter"],
)
def test_elsewhere_kernels_have_the_exact_formula(target, dtype):
    for name in PASSES:
        text = emitted(name, target=target, dtype=dtype).kernel.source.text
        assert "fast_tanh" not in text
        assert "def tanh(x):" in text


def test_torch_kernels_do_not_know_of_it():
    text = pipeline.lower(parse(SOFT_CAP), Problem("bfloat16"), Target("torch", "cpu", fast_math=True)).forward.text
    assert "tanh_()" in text
    assert "fast_tanh" not in text


def test_kernels_with_and_without_it_are_different_programs():
    without = emitted("forward", target=Target("triton", "cuda", "sm_90"))
    assert emitted("forward").kernel.source.digest != without.kernel.source.digest


def test_what_is_not_of_the_score_is_exact_beside_it():
    text = emitted("forward", BOTH).source.text
    assert text.count("def tanh(x):") == text.count("def fast_tanh(x):") == 1
    assert " tanh(kv_idx.to(tl.float32) * 0.1)" in text
    assert " fast_tanh(dot * inner_scale)" in text


@pytest.mark.parametrize(
    ("arch", "gluon", "fast"), [("sm_80", False, False), ("sm_80", False, True), ("sm_90", True, True)]
)
def test_it_is_one_instruction(arch, gluon, fast):
    kernel = emitted("forward", target=Target("triton", "cuda", arch, gluon=gluon, fast_math=fast)).kernel
    assert kernel.gluon is gluon
    ptx = str(triton_build._compile(kernel, arch)[0]["ptx"])
    assert ("tanh.approx.f32" in ptx) is fast


@pytest.mark.parametrize(
    ("body", "line", "taken"),
    [
        ("30.0 * tanh(score / 30.0)", "inner_scale = scale / 30.0", True),
        ("30.0 * tanh(score * -0.5)", "inner_scale = scale * -0.5", True),
        ("30.0 * tanh(score)", "score = dot * scale", False),
        ("30.0 * tanh(score / 30.0) + score", "inner_scale = scale / 30.0", True),
        ("30.0 * tanh(score / 30.0) + abs(score / 30.0)", "score = dot * scale", False),  # its value is used elsewhere
        ("30.0 * tanh((score + q_idx) / 30.0)", "score = dot * scale", False),
    ],
)
def test_the_scale_takes_the_number_inside(body, line, taken):
    text = f"attn 1\nattention a:\n  score = {body}\n"
    found = emitted("forward", text).source.text
    assert line in found
    assert ("fast_tanh(dot * inner_scale)" in found) is taken
    assert found.count("inner_scale = ") == taken
    assert ("score = dot * scale" in found) is not taken

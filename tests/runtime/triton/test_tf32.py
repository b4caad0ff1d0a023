"""Products of float32 run in full precision, and on the matrix units as TF32 where torch's own setting asks for it."""

from __future__ import annotations

import re

import pytest
import torch

import attncc
from attncc import pipeline
from attncc.frontend import parse
from attncc.runtime import op, triton_build
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.target import has_tf32
from tests.interpreter import interpreted

CAUSAL = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
#: How a product of TF32 is spelled in what the compiler leaves, by target.
PRODUCTS = {"sm_80": r"mma\.sync\S*tf32", "sm_90": r"mma\S*tf32", "sm_100": r"mma\S*tf32", "gfx942": r"mfma\S*xf32"}


@pytest.fixture
def tf32():
    """Torch's setting, on; and as it was afterwards."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def kernels(target: str, *, tf32: bool):
    """The kernels of a causal pass forward and of the passes backward, by name."""
    problem = Problem("float32", 64, 64, 4, 4, gradients=Gradients(), tf32=tf32)
    lowered = pipeline.lower(CAUSAL, problem, Target("triton", "cuda", target))
    every = {**lowered.triton_forward().passes, **lowered.triton_backward().passes}
    return {name: emitted.kernel for name, emitted in every.items() if name != "prepare"}


@pytest.mark.parametrize("target", PRODUCTS)
@pytest.mark.parametrize("name", ["forward", "backward_q", "backward_kv"])
def test_a_compiled_kernel_multiplies_as_it_was_asked_to(target, name):
    for wanted in (False, True):
        made, _ = triton_build._compile(kernels(target, tf32=wanted)[name], target)
        text = str(made["amdgcn" if target.startswith("gfx") else "ptx"])
        assert bool(re.search(PRODUCTS[target], text)) == wanted


def test_targets_without_such_products_keep_full_precision(tf32):
    assert [arch for arch in ("sm_80", "sm_90", "gfx90a", "gfx942", "gfx950") if not has_tf32(arch)] == [
        "gfx90a",
        "gfx950",
    ]
    assert op.takes_tf32(Target("triton", "cuda", "sm_90"), torch.float32)
    assert not op.takes_tf32(Target("triton", "cuda", "gfx950"), torch.float32)
    assert not op.takes_tf32(Target("torch", "cuda"), torch.float32)


def test_torch_off_and_16_bits_want_none(tf32):
    assert op.wants_tf32(torch.float32)
    assert not op.wants_tf32(torch.bfloat16)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not op.wants_tf32(torch.float32)


def test_the_older_words_of_torch_are_followed():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert op.wants_tf32(torch.float32)
        torch.set_float32_matmul_precision("highest")
        assert not op.wants_tf32(torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)


@interpreted
def test_the_setting_of_the_moment_decides_which_kernel_runs():
    asked = []
    kept = pipeline.lower_text
    variant = attncc.loads("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")  # brings the compiler
    op.install(lambda text, problem, target: asked.append(problem.tf32) or kept(text, problem, target))
    q = torch.randn(1, 2, 20, 16, requires_grad=True)
    wanted = variant(q, q, q, backend="reference")
    for precision, rounds in (("ieee", False), ("tf32", True), ("ieee", False), ("tf32", True)):
        torch.backends.cuda.matmul.fp32_precision = precision
        asked.clear()
        op._KERNELS.clear()
        out = variant(q, q, q, backend="triton", block_m=16, block_n=16)
        out.sum().backward()
        assert rounds in asked
        assert rounds or True not in asked
        assert ('input_precision="tf32"' in variant.source(q, q, q, backend="triton")) == rounds
        assert (out - wanted).abs().max() < 1e-5
    torch.backends.cuda.matmul.fp32_precision = "none"
    op.install(kept)

"""Where the GPU's approximate `tanh` is taken: by target, by dtype, and by what a score does with the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc.frontend import parse
from attncc.ir import Op
from attncc.pipeline import canonicalize
from attncc.schedule import Problem, Target
from attncc.schedule.fast_math import approximate, has_fast_tanh

AMPERE = Target("triton", "cuda", "sm_80", fast_math=True)
PROBLEM = Problem("bfloat16")
SOFT_CAP = "score = 30.0 * tanh(score / 30.0)"


def taken(body: str, problem: Problem = PROBLEM, target: Target = AMPERE, top: str = "") -> int:
    """How many uses of `tanh` in a variant the instruction serves."""
    spec = canonicalize(parse(f"attn 1\nattention a:\n{top}  {body}\n"))
    dtypes = problem.capture_dtypes or ("float32",) * len(spec.captures)
    found = approximate(spec, replace(problem, capture_dtypes=dtypes), target)
    assert all(expr.op is Op.TANH for expr in found)
    return len(found)


def test_a_soft_cap_of_bfloat16_tensors_takes_it():
    assert taken(SOFT_CAP) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_tensors_that_round_less_do_not(dtype):
    assert not taken(SOFT_CAP, replace(PROBLEM, dtype=dtype))


def test_the_switch_turns_it_off():
    assert not taken(SOFT_CAP, target=replace(AMPERE, fast_math=False))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_nvidia_gpus_have_it(arch):
    assert has_fast_tanh(replace(AMPERE, arch=arch))


@pytest.mark.parametrize(
    "target",
    [Target("triton", "cuda", "gfx942"), Target("triton", "cpu"), Target("torch", "cuda"), Target("torch", "cpu")],
    ids=["AMD", "interpreter", "torch", "torch on the CPU"],
)
def test_no_other_target_has_it(target):
    assert not has_fast_tanh(target)
    assert not taken(SOFT_CAP, target=replace(target, fast_math=True))


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("score = score + 8.0 * tanh(score)", 1),
        ("score = 50.0 * tanh((score + tanh(score)) / 50.0)", 2),
        ("score = where(q_idx > 5, 30.0 * tanh(score / 30.0), score)", 1),
        ("score = 40.0 * tanh(score) + 10.0 * tanh(score) * tanh(score)", 1),
        ("score = 30.0 * tanh(score * 1000.0)", 1),  # steep before it, not behind it
    ],
)
def test_a_score_that_the_result_moves_little_takes_it(body, count):
    assert taken(body) == count


@pytest.mark.parametrize(
    "body",
    [
        "score = 1000.0 * tanh(score)",
        "score = 60.0 * tanh(score) + 10.0 * tanh(score) * tanh(score)",
        "score = log(1.0 + tanh(score))",
        "score = score * tanh(score)",
        "score = where(tanh(score) > 0.5, score, 0.0)",
        "score = where(2.0 * tanh(score) > 1.0, score, 0.0)",
        "score = floor(8.0 * tanh(score))",
    ],
)
def test_a_score_that_it_may_move_far_does_not(body):
    assert not taken(body)


def test_what_is_not_of_the_score_stays_exact():
    assert not taken("score = score + tanh(float(q_idx) * 0.1)\n  mask = tanh(float(kv_idx)) < 0.9")


def test_a_captured_cap_has_no_bound():
    assert not taken("score = cap[h] * tanh(score / cap[h])", top="  capture cap: float[heads]\n")


@pytest.mark.parametrize(("dtype", "count"), [("float32", 1), ("bfloat16", 1), ("float64", 0)])
def test_a_captured_float64_keeps_it_exact(dtype, count):
    body = "score = 30.0 * tanh((score + bias[h]) / 30.0)"
    assert taken(body, replace(PROBLEM, capture_dtypes=(dtype,)), top="  capture bias: float[heads]\n") == count

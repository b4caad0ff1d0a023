"""Measuring a case: every contender has a time for each pass or says why not, and computes the same."""

from __future__ import annotations

import sys
import time

import pytest
import torch

import attncc
from attncc.errors import InputError
from attncc.measure.apart import TooSlow, run_apart
from attncc.measure.bench import describe_machine, forward_flops, measure
from attncc.measure.cases import CASES, Shape
from attncc.measure.clock import median_ms
from attncc.measure.problems import case_problem, variant_problem

SHAPE = Shape(1, 2, 1, 64, 64, 16)


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_measured_forward_and_backward(name):
    problem = case_problem(name, SHAPE, "cpu", {"backend": "torch"})
    found = list(measure(name, problem, "float32", ("forward", "backward"), ("attncc", "sdpa", "fa2", "fa4"), 0))
    assert [(t.contender, t.direction) for t in found[:2]] == [("attncc", "forward"), ("attncc", "backward")]
    assert all(timing.ms is not None for timing in found[:2])
    assert found[1].tflops == pytest.approx(2.5 * forward_flops(problem) / found[1].ms / 1e9)
    for timing in found[2:]:
        assert (timing.ms is None) == (timing.note is not None)
        assert timing.difference is None or timing.difference < 1e-4
    assert (found[2].ms is None) == (problem.score_mod is not None)


def test_a_variant_of_text_is_measured_beside_a_dense_mask():
    text = "attn 1\nattention near(window: int = 9):\n  mask = q_idx >= kv_idx and q_idx - kv_idx < window\n"
    problem = variant_problem(attncc.loads(text), SHAPE, "cpu", {})
    found = list(measure("near", problem, "float32", ("forward",), ("attncc", "sdpa"), 0))
    assert all(timing.ms is not None for timing in found)
    assert found[1].difference < 1e-5


def test_a_function_that_asks_for_sizes_is_given_them():
    from attncc.variants.causal import causal_bottom_right

    shape = Shape(1, 2, 2, 32, 48, 16)
    problem = variant_problem(attncc.compile(mask_mod=causal_bottom_right), shape, "cpu", {})
    assert forward_flops(problem) == 4 * 16 * 2 * sum(i + 17 for i in range(32))
    found = list(measure("bottom", problem, "float32", ("forward",), ("attncc", "sdpa"), 0))
    assert found[1].difference < 1e-5


def test_there_is_no_case_of_another_name():
    with pytest.raises(InputError, match="there is no case `other`"):
        case_problem("other", SHAPE, "cpu", {})


def test_the_machine_is_described_with_its_matrix_rate():
    found = describe_machine("float32", "cpu", 1.0)
    assert found["matrix_tflops"] > 0
    assert torch.__version__ in found["versions"]


def test_a_median_leaves_the_first_call_out():
    calls = []

    def call():
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.002)

    assert 1 < median_ms(call, "cpu", 30) < 100
    assert len(calls) >= 4


def test_lines_of_a_process_come_as_they_are_printed():
    program = "print('noise'); print('{\"a\": 1}'); print('{\"a\": 2}')"
    assert list(run_apart([sys.executable, "-c", program], 60)) == [{"a": 1}, {"a": 2}]


def test_a_process_that_hangs_is_ended_and_what_it_said_counts():
    program = "import time; print('{\"a\": 1}', flush=True); time.sleep(600)"
    lines, start = run_apart([sys.executable, "-c", program], 5), time.monotonic()
    assert next(lines) == {"a": 1}
    with pytest.raises(TooSlow):
        next(lines)
    assert time.monotonic() - start < 60


def test_a_process_that_fails_says_why():
    with pytest.raises(InputError, match="ValueError: so it is"):
        list(run_apart([sys.executable, "-c", "raise ValueError('so it is')"], 60))

"""The barrier protocol of rendered Gluon kernels holds in any order of warps, and their results are right."""

from __future__ import annotations

import re

import pytest

from attncc.schedule.gluon import ROWS
from tests.gluon.rendered import call, check
from tests.gluon.simulator import Fault, simulate

KERNELS = ("forward", "backward_q", "backward_kv", "backward")
#: Closed forms, tables, per-head masks, scores with captures, rows without a visible key, and no mask at all.
NAMES = ("full", "causal", "sliding_window", "documents", "alibi", "soft_cap", "head_windows", "padding")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_right_in_a_drawn_order(name, kernel):
    made = call(name)
    emitted = made.emitted(kernel)
    arguments = made.arguments(emitted)
    simulate(emitted.kernel.source.text, kernel, made.grid(emitted), arguments, seed=3)
    check(arguments, made.wanted)


@pytest.mark.parametrize("slow", ["produce", "consume[0]", "consume[1]", "reduce", "transfers"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nobody_waits_for_ever_when_one_is_slow(kernel, slow):
    made = call("causal", 332)
    emitted = made.emitted(kernel)
    arguments = made.arguments(emitted)
    simulate(emitted.kernel.source.text, kernel, made.grid(emitted), arguments, seed=5, slow=[slow])
    check(arguments, made.wanted)


@pytest.mark.parametrize(
    ("kernel", "number"),
    [(kernel, i) for kernel in KERNELS for width in (64,) for i in range(len(ROWS[kernel][width]))],
)
def test_every_schedule_of_a_head_size_is_right(kernel, number):
    made = call("causal", 332)
    emitted = made.emitted(kernel, ROWS[kernel][64][number])
    arguments = made.arguments(emitted)
    simulate(emitted.kernel.source.text, kernel, made.grid(emitted), arguments, seed=number)
    check(arguments, made.wanted)


def test_a_persistent_grid_takes_every_tile():
    made = call("causal", 520)
    emitted = made.emitted("forward")
    arguments = made.arguments(emitted)
    simulate(emitted.kernel.source.text, "forward", 3, arguments, seed=7)
    check(arguments, made.wanted)


PLANTED = {
    "a stage is never freed": ("forward", r"release\(done % STAGES, EMPTY \+ STAGES\)", "pass"),
    "K is freed before its product has landed": (
        "backward_q",
        r"(        grad_q = warpgroup_mma_wait\(1, deps=\[grad_q\]\)\n)(        mbarrier.arrive\(k_empty[^\n]*\n)",
        r"\2\1",
    ),
    "too few bytes are expected": (
        "backward_kv",
        r"q_desc.block_type.nbytes \+ lse2_desc.block_type.nbytes",
        "q_desc.block_type.nbytes",
    ),
    "a wait has the wrong phase": ("backward_kv", r"\(done // STAGES\) & 1\)", "((done // STAGES) & 1) ^ 1)"),
    "gradients of scores are not fenced": (
        "backward",
        r"            fence_async_shared\(\)\n            named_barrier",
        "            named_barrier",
    ),
    "K is overwritten while dQ is made": ("backward", r"    mbarrier.wait\(k_done, 0\)[^\n]*\n", ""),
    "a share of dQ is overwritten": ("backward", r"                tma.store_wait\(SLOTS - 1\)[^\n]*\n", ""),
    "gradients of scores are overwritten": ("backward", r"(?m)^ *mbarrier.wait\(grads_empty[^\n]*\n", ""),
    "the output is not fenced": ("forward", r"            fence_async_shared\(\)\n            tma", "            tma"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_caught(fault):
    kernel, pattern, replacement = PLANTED[fault]
    made = call("causal", 520)
    emitted = made.emitted(kernel)
    text, count = re.subn(pattern, replacement, emitted.kernel.source.text)
    assert count
    arguments = made.arguments(emitted)

    def run() -> None:
        simulate(text, kernel, made.grid(emitted), arguments, seed=1)
        check(arguments, made.wanted)

    with pytest.raises((Fault, AssertionError)):
        run()

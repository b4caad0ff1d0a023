"""Scores that are proven to be bounded do without the largest of each row, and give the same results."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from attncc import pipeline
from attncc.emit.gluon.bounded import WIDEST, fixed_shift
from attncc.emit.triton.expressions import SCORE_LOG2, to_base_2
from attncc.frontend import parse
from attncc.ir import AttentionSpec, evaluate
from attncc.schedule import Problem
from attncc.variants.gallery import gallery
from tests.gluon.inspect import Inspection, inspect_kernel
from tests.gluon.launch import Launch, simulated
from tests.gluon.mutants import mutants
from tests.gluon.rendered import HOPPER, call
from tests.gluon.simulator import Fault
from tests.runtime.triton.cases import Case, dense, outcome, triton

LOG2E = math.log2(math.e)
MASK = "  mask = q_idx >= kv_idx and q_idx - kv_idx < 100 and q_idx != 3\n"
CAP = "score = 30.0 * tanh(score / 30.0)"
WIDE = "score = 50.0 * tanh(score / 50.0)"
ASIDE = "score = min(max(score, 0.0), 40.0)"


def variant(*lines: str, mask: str = "", top: str = "") -> AttentionSpec:
    body = "".join(f"  {line}\n" for line in lines)
    return pipeline.canonicalize(parse(f"attn 1\nattention bounded:\n{top}{body}{mask}"))


BIAS, SLOPES = "  capture bias: float[q_len]\n", "  capture slopes: float[heads]\n"


@pytest.mark.parametrize(
    ("lines", "top", "middle"),
    [
        ((CAP,), "", 0.0),
        ((WIDE,), "", 0.0),
        (("score = score + bias[q_idx]", CAP), BIAS, 0.0),
        ((CAP, "score = score + 10.0 * sigmoid(bias[q_idx])"), BIAS, 5.0 * LOG2E),
        (("score = min(max(score, -20.0), 20.0)",), "", 0.0),
        ((ASIDE,), "", 20.0 * LOG2E),
        (("score = 5.0 * sin(score) + 3.0",), "", 3.0 * LOG2E),
    ],
)
def test_scores_between_two_numbers_have_a_middle(lines, top, middle):
    shift = fixed_shift(variant(*lines, top=top), "bfloat16")
    assert shift is not None
    assert (shift == 0.0) if middle == 0.0 else (abs(shift - middle) < 0.02)


@pytest.mark.parametrize(
    ("lines", "top"),
    [
        (("score = score",), ""),
        (("score = 53.0 * tanh(score / 53.0)",), ""),
        (("score = min(score, 20.0)",), ""),
        ((CAP, "score = score - slopes[h] * (q_idx - kv_idx)"), SLOPES),
        (("score = slopes[h] * tanh(score / slopes[h])",), SLOPES),
        ((CAP, "score = where(bias[q_idx] <= 3e38, score, 1e6)"), BIAS),  # NaN is not below
        ((CAP, "score = score / (score - score)"), ""),
    ],
)
def test_nothing_is_proven_of_others(lines, top):
    assert fixed_shift(variant(*lines, top=top), "bfloat16") is None


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_of_other_dtypes_need_the_largest(dtype):
    assert fixed_shift(variant(CAP), dtype) is None


def test_variants_of_the_gallery_that_are_bounded():
    found = {name for name in gallery() if fixed_shift(call(name).spec, "bfloat16") is not None}
    assert found == {"soft_cap", "windowed_soft_cap", "capped_temperature"}


@pytest.mark.parametrize("lines", [(CAP,), (WIDE,), (ASIDE,), ("score = 5.0 * sin(score) + 3.0",)])
def test_no_score_is_beyond_its_bounds(lines):
    spec = variant(*lines)
    shift = fixed_shift(spec, "bfloat16")
    assert shift is not None
    exponent = to_base_2(spec.score)
    for score in (0.0, 1e-30, 0.3, 17.0, 88.0, 1e4, 3e37, 3.2e38):
        for sign in (1, -1):
            inputs: dict[str, Any] = {"score": sign * score, "b": 0, "h": 0, "q_idx": 0, "kv_idx": 0}
            value = evaluate(exponent, inputs, lambda name, _: 1 / 0)
            assert abs(value - shift) <= WIDEST


def case_of(spec: AttentionSpec, size: float, *, against: bool = False, length: int = 150, dim: int = 64) -> Case:
    """Tensors whose scores are of this size in either direction, or all of them far below 0."""
    numbers = torch.Generator().manual_seed(7)
    made = [torch.randn(1, 2, length, dim, generator=numbers).bfloat16().double() for _ in range(3)]
    q, k, v = made
    if against:
        q, k = -q.abs(), k.abs()
    return Case(spec, (q * size, k, v), (), ())


@pytest.mark.parametrize("against", [False, True])
@pytest.mark.parametrize(("line", "size"), [(CAP, 1.0), (CAP, 40.0), (WIDE, 60.0), (ASIDE, 10.0)])
def test_results_are_those_of_the_reference_up_to_the_bounds(line, size, against):
    case = case_of(variant(line, mask=MASK), size, against=against)
    own, captures = case.tensors(torch.bfloat16)
    with simulated(seed=4) as launches, torch.no_grad():
        out, lse = triton(case)(*own, captures)
        wanted, wanted_lse = dense(case)(*(x.double() for x in own), captures)
    assert [("row_max" in launch.kernel.source.text) for launch in launches] == [False]
    assert (out[:, :, 3] == 0).all()
    assert (lse[:, :, 3] == -math.inf).all()
    seen = wanted_lse.isfinite()
    assert (out.double() - wanted).abs().max() < 2**-7 * wanted.abs().max()
    assert (lse.double() - wanted_lse)[seen].abs().max() < 2**-15


@pytest.mark.parametrize("size", [2.0**-40, 2.0**20])
def test_values_may_be_as_small_or_large_as_stated(size):
    case = case_of(variant(WIDE), 60.0, against=size < 1)
    (q, k, v), captures = case.tensors(torch.bfloat16)
    with simulated(), torch.no_grad():
        out, _ = triton(case)(q, k, v * size, captures)
        wanted, _ = dense(case)(q.double(), k.double(), v.double() * size, captures)
    assert (out.double() - wanted).abs().max() < 2**-7 * wanted.abs().max()


def test_gradients_are_those_of_the_reference():
    case = case_of(variant(CAP, mask=MASK), 4.0)
    with simulated():
        found = outcome(triton(case), *case.tensors(torch.bfloat16))
    wanted = outcome(dense(case), *case.tensors(torch.float64))
    for a, b in zip(found, wanted, strict=True):
        held = b.isfinite()
        assert (a.double() - b)[held].abs().max() < 2**-5 * max(1.0, float(b[held].abs().max()))


def test_a_score_that_is_nan_makes_its_row_nan_and_no_other():
    spec = variant("score = score + bias[q_idx]", CAP, mask=MASK, top=BIAS)
    bias = torch.zeros(150)
    bias[5] = math.nan
    case = case_of(spec, 1.0)
    own, _ = case.tensors(torch.bfloat16)
    with simulated() as launches, torch.no_grad():
        out, lse = triton(case)(*own, [bias])
    assert "row_max" not in launches[0].kernel.source.text
    others = torch.arange(150) != 5
    assert out[:, :, 5].isnan().all()
    assert lse[:, :, 5].isnan().all()
    assert out[:, :, others].isfinite().all()
    assert not lse[:, :, others].isnan().any()


@pytest.fixture(scope="module")
def launch() -> Launch:
    case = case_of(variant(CAP, mask="  mask = q_idx >= kv_idx\n"), 1.0, length=520)
    own, captures = case.tensors(torch.bfloat16)
    with simulated() as launches, torch.no_grad():
        triton(case)(*(x[:, :1] for x in own), captures)
    return launches[0]


def test_no_mutant_survives(launch):
    text = launch.kernel.source.text
    ordering = ("named_barrier", "acquire", "release")
    assert launch.again(text, seed=1)
    assert [one.name for one in mutants(text, ordering) if not caught(launch, one.text)] == []


def caught(launch: Launch, text: str) -> bool:
    try:
        return not launch.again(text, seed=1)
    except Fault:
        return True


def compiled(dim: int, number: int = 0) -> tuple[Any, Inspection]:
    """The kernel for causal soft caps, under the choice of this number."""
    causal = parse(f"attn 1\nattention bounded:\n  {CAP}\n  mask = q_idx >= kv_idx\n")
    lowered = pipeline.lower(causal, Problem("bfloat16", dim, dim, 4, 4), HOPPER)
    assert lowered.triton_forward is not None
    program = lowered.triton_forward()
    emitted = program.rescheduled(program.schedules.choices("forward")[number]).passes["forward"]
    return emitted.schedule, inspect_kernel(emitted.kernel)


@pytest.mark.parametrize(("dim", "number"), [(64, 1), (128, 0), (256, 0)])
def test_the_kernel_overlaps_as_others_do_without_the_exponentials_of_decay(dim, number):
    schedule, found = compiled(dim, number)
    assert found.messages == ()
    assert found.spill_stores == 0
    code = found.instructions
    assert code.overlapped_exponentials == (schedule.tile_kv // 2,) * schedule.consumers
    wanted = 2 * dim // 16, 2 * schedule.tile_kv // 16
    assert (code.products_of_shared, code.products_of_registers) == tuple(schedule.consumers * n for n in wanted)


def test_the_score_itself_is_not_bounded():
    assert to_base_2(variant("score = score").score) is SCORE_LOG2


def test_names_of_the_user_are_not_those_of_the_softmax():
    names = ("row_max", "new_max", "shift", "decay", "row_stop", "columns_before")
    top = "".join(f"  capture {name}: float[q_len]\n" for name in names)
    spec = variant(f"score = score + {' + '.join(f'{name}[q_idx]' for name in names)}", mask=MASK, top=top)
    shapes = tuple(torch.randn(150) for _ in names)
    own = case_of(spec, 1.0).tensors(torch.bfloat16)[0]
    case = Case(spec, tuple(x.double() for x in own), shapes, ())  # type: ignore[arg-type]  # three of them
    with simulated() as launches, torch.no_grad():
        out, _ = triton(case)(*own, shapes)
    wanted, _ = dense(case)(*case.own, [x.double() for x in shapes])
    assert (out.double() - wanted).abs().max() < 2**-6
    assert len(launches) == 1


def test_kernels_read_well(golden):
    golden("kernel.py").check(call("windowed_soft_cap", 200, 128).emitted("forward").source.text)

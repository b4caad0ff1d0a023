"""Interval rules hold the values of random expressions, on Python numbers and on arrays alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from attncc.analysis import PYTHON, TRANSFER, ArrayNumbers, Box, Interval, bounds
from attncc.analysis.bounds import Walk, leaves, loading
from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, evaluate, load, narrow, param
from attncc.ir.evaluate import round_to
from tests.analysis.masks import Draw, make
from tests.share import share

UNARY = (Op.NEG, Op.ABS, Op.EXP, Op.EXP2, Op.EXPM1, Op.LOG, Op.LOG2, Op.LOG1P, Op.SQRT, Op.RSQRT)
UNARY += (Op.TANH, Op.SIGMOID, Op.SIN, Op.COS)


def contains(interval: Interval, value: float) -> bool:
    return bool(interval.nan) or interval.lo <= value <= interval.hi


def test_no_operation_lacks_a_rule() -> None:
    assert set(TRANSFER) == set(Op)


@pytest.mark.parametrize("kind", ["index", "float"])
@pytest.mark.parametrize("part", range(4))
def test_every_value_lies_in_its_interval(kind: str, part: int) -> None:
    finite = tried = 0
    for seed in range(share(6000) // 8):
        draw = Draw(200_000 + seed * 4 + part)
        try:
            expr = getattr(draw, kind)(4)
        except Exception:  # a constant subexpression without a value
            continue
        read, inputs, ends = draw.loader(), draw.inputs(), draw.box()
        box = Box({k: Interval(v, v) for k, v in inputs.items()}, {})
        box = Box({**box.inputs, "q_idx": Interval(*ends[:2]), "kv_idx": Interval(*ends[2:])}, {})
        try:
            found = bounds(expr, box, read)
        except (ZeroDivisionError, OverflowError):
            pytest.fail(f"the bounds of seed {seed} are not made")
        for q in range(ends[0], ends[1] + 1):
            for kv in range(ends[2], ends[3] + 1):
                try:
                    value = evaluate(expr, {**inputs, "q_idx": q, "kv_idx": kv}, read)
                except (ZeroDivisionError, ValueError, OverflowError):
                    continue
                tried += 1
                finite += not found.nan and abs(found.lo) < math.inf and abs(found.hi) < math.inf
                assert found.nan if value != value else contains(found, value), (seed, part, found, value)
    assert finite > tried // 16


@pytest.mark.parametrize("module", [torch, np])
def test_arrays_follow_the_same_rules(module: Any) -> None:
    numbers = ArrayNumbers(module)
    array = (lambda x: torch.tensor(x, dtype=torch.float64)) if module is torch else np.array
    tiles = [(q, q + 3, kv, kv + 3) for q in range(0, 24, 4) for kv in range(0, 24, 4)]
    columns = [array([float(t[i]) for t in tiles]) for i in range(4)]
    for seed in range(share(1500)):
        draw = Draw(300_000 + seed, captures=False, floats=False)
        mask, inputs = draw.mask(3), draw.inputs()
        points = {name: Interval(value, value) for name, value in inputs.items()}
        box = Box({**points, "q_idx": Interval(*columns[:2]), "kv_idx": Interval(*columns[2:])}, {})
        found = Walk(numbers, leaves(box), loading(None)).interval(mask)
        for i, tile in enumerate(tiles):
            alone = Box({**points, "q_idx": Interval(*tile[:2]), "kv_idx": Interval(*tile[2:])}, {})
            expected = bounds(mask, alone)
            pair = [bool(x if isinstance(x, bool) else x[i]) for x in (found.lo, found.hi)]
            assert pair == [expected.lo, expected.hi], (seed, tile)


@pytest.mark.parametrize(
    ("expr", "lo", "hi"),
    [
        (make(Op.SUB, Q_IDX, Q_IDX), 0, 0),
        (make(Op.SUB, make(Op.ADD, Q_IDX, 1), Q_IDX), 1, 1),
        (make(Op.ABS, make(Op.SUB, Q_IDX, KV_IDX)), 0, 7),
        (make(Op.MOD, Q_IDX, 16), 8, 15),
        (make(Op.MOD, Q_IDX, 10), 0, 9),
        (make(Op.FLOORDIV, make(Op.NEG, Q_IDX), 4), -4, -2),
        (make(Op.FLOORDIV, Q_IDX, -4), -4, -2),
        (make(Op.MUL, Q_IDX, param("unknown")), -math.inf, math.inf),
        (make(Op.BIT_AND, Q_IDX, 3), 0, 3),
    ],
)
def test_bounds_of_small_expressions(expr: Expr, lo: float, hi: float) -> None:
    found = bounds(expr, Box({"q_idx": Interval(8, 15), "kv_idx": Interval(8, 15)}, {}))
    assert (found.lo, found.hi) == (lo, hi)


def test_a_divisor_that_may_be_zero_leaves_nothing_known() -> None:
    found = bounds(
        make(Op.FLOORDIV, Q_IDX, make(Op.SUB, KV_IDX, 3)), Box({"q_idx": Interval(1, 2), "kv_idx": Interval(2, 4)}, {})
    )
    assert found.nan


def test_nothing_is_proven_of_a_value_that_may_be_nan() -> None:
    threshold = load("threshold", Scalar.FLOAT, KV_IDX)
    box = Box({}, {threshold: Interval(5.0, 6.0, True)})
    for op in (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE):
        found = bounds(make(op, threshold, 3.0), box)
        assert found.lo is False
        assert found.hi is True


@pytest.mark.parametrize("op", UNARY)
def test_a_function_of_a_float_is_bounded_beyond_float32_rounding(op: Op) -> None:
    x = load("x", Scalar.FLOAT)
    for i in range(share(2000)):
        value = round_float32(math.sin(i) * 10.0 ** ((i % 9) - 4))
        found = bounds(make(op, x), Box({}, {x: Interval(value, value)}))
        single = torch.tensor(value, dtype=torch.float32)
        name = {Op.SIGMOID: "sigmoid"}.get(op, op.value)
        real = float(getattr(torch, name)(single))
        assert found.nan or contains(found, real) or real != real


def round_float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def test_int_casts_beyond_float32_are_rounded_outward() -> None:
    for start in (2**24 - 2, 2**24 + 1, 2**25 + 3, 2**27 + 5, -(2**24) - 7):
        expr = make(Op.MUL, Q_IDX, 1.0)
        found = bounds(expr, Box({"q_idx": Interval(start, start)}, {}))
        assert contains(found, float(torch.tensor(start, dtype=torch.int64).to(torch.float32)))


def test_narrow_rounds_outward() -> None:
    x = load("x", Scalar.FLOAT)
    for value in (0.1, 1.0009, 65519.0, 65530.0, 1e-6, -3.3e38):
        for dtype in ("float16", "bfloat16"):
            found = bounds(narrow(x, dtype), Box({}, {x: Interval(value, value)}))
            assert contains(found, round_to(dtype, value)), (dtype, value, found)


def test_python_numbers_keep_zero_times_unknown_zero() -> None:
    assert PYTHON.mul(0, math.inf, True) == 0
    assert math.isnan(PYTHON.mul(0.0, math.inf, False))

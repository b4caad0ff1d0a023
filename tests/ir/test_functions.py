"""The functions that both front ends expand: values, NaN, and which branch a tie takes."""

from __future__ import annotations

import math

import pytest

from attncc.ir import KV_IDX, Q_IDX, SCORE, Op, Scalar, const, evaluate
from attncc.ir.functions import clamp, gelu, relu, silu, softplus

VALUES = (-800.0, -2.5, -1.0, -0.0, 0.0, 0.75, 1.0, 3.0, 800.0)


def value(expr, score):
    return evaluate(expr, {"score": score, "q_idx": 7, "kv_idx": 2})


@pytest.mark.parametrize("x", VALUES)
def test_values_are_those_of_the_formulas(x):
    assert value(relu(SCORE), x) == max(x, 0.0)
    assert value(silu(SCORE), x) == pytest.approx(x / (1 + math.exp(-x)) if x > -700 else 0.0)
    assert value(gelu(SCORE), x) == pytest.approx(x * 0.5 * math.erfc(-x / math.sqrt(2)), abs=1e-12)
    assert value(softplus(SCORE), x) == pytest.approx(math.log1p(math.exp(x)) if x < 700 else x)
    assert value(clamp(SCORE, const(-1.0), const(2.0)), x) == min(max(x, -1.0), 2.0)


@pytest.mark.parametrize("function", [relu, silu, gelu, softplus, lambda x: clamp(x, const(-1), const(1))])
def test_nan_stays_nan(function):
    assert math.isnan(value(function(SCORE), math.nan))


def test_bounds_that_cross_give_the_upper_one():
    assert value(clamp(SCORE, const(5.0), const(3.0)), 0.0) == 3.0
    assert value(clamp(Q_IDX, const(50), const(30)), 0.0) == 30


def test_a_missing_bound_is_no_bound():
    assert clamp(SCORE, None, None) is SCORE
    assert value(clamp(SCORE, None, const(1.0)), -9.0) == -9.0
    assert value(clamp(SCORE, const(1.0), None), 9.0) == 9.0


def test_an_int_held_between_ints_is_min_of_max():
    held = clamp(KV_IDX, const(0), const(3))
    assert (held.op, held.args[0].op, held.scalar) == (Op.MIN, Op.MAX, Scalar.INDEX)

"""The table of meanings, against torch on doubles, at every special value."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from attncc.ir import (
    FALSE,
    OPS,
    Q_IDX,
    SCORE,
    TRUE,
    Expr,
    Op,
    Scalar,
    apply,
    cast,
    const,
    evaluate,
    load,
    narrow,
    param,
)
from attncc.ir.build import Rule
from attncc.ir.evaluate import EVALUATE, round_to
from attncc.reference.dense import TORCH

FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 7.25, -7.25, 1e-320, 1e308, -1e308, 800.0, -800.0)
SPECIAL = (*FLOATS, math.inf, -math.inf, math.nan)
WHOLE = (0, 1, -1, 2, 3, -3, 7, 12, -12, 63)


def expected(op: Op, *values: float, dtype: torch.dtype = torch.float64) -> float:
    return TORCH[op](*(torch.tensor(value, dtype=dtype) for value in values)).item()


def agree(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    # Subnormal and last-bit differences between two libraries of functions.
    return a == b or math.isclose(a, b, rel_tol=1e-14, abs_tol=1e-300)


FLOAT_OPS = [
    op for op in OPS if OPS[op].rule in (Rule.NUMBER, Rule.FLOAT, Rule.ROUNDING, Rule.POWER, Rule.ORDER, Rule.EQUALITY)
]
INDEX_OPS = [op for op in OPS if OPS[op].rule in (Rule.NUMBER, Rule.BITS, Rule.ORDER, Rule.EQUALITY)]


@pytest.mark.parametrize("op", FLOAT_OPS, ids=lambda op: op.value)
def test_floats_mean_what_they_mean_to_torch(op: Op):
    for values in itertools.product(SPECIAL, repeat=OPS[op].arity):
        assert agree(EVALUATE[op](*values), expected(op, *values)), values


@pytest.mark.parametrize(
    "op", [Op.MUL, Op.DIV, Op.ADD, Op.SUB, Op.NEG, Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC], ids=lambda op: op.value
)
def test_zeros_keep_their_sign(op: Op):
    for values in itertools.product((0.0, -0.0, 0.25, -0.25), repeat=OPS[op].arity):
        result = EVALUATE[op](*values)
        assert math.isnan(result) or math.copysign(1, result) == math.copysign(1, expected(op, *values)), values


@pytest.mark.parametrize("op", INDEX_OPS, ids=lambda op: op.value)
def test_ints_mean_what_they_mean_to_torch(op: Op):
    for values in itertools.product(WHOLE, repeat=OPS[op].arity):
        divides = op in (Op.FLOORDIV, Op.MOD) and values[1] == 0
        shifts = op in (Op.SHIFT_LEFT, Op.SHIFT_RIGHT) and not 0 <= values[1] <= 40
        if not divides and not shifts:
            assert EVALUATE[op](*values) == expected(op, *values, dtype=torch.int64), values


@pytest.mark.parametrize(
    "op", [op for op in OPS if OPS[op].rule in (Rule.LOGIC, Rule.EQUALITY)], ids=lambda op: op.value
)
def test_bools_mean_what_they_mean_to_torch(op: Op):
    for values in itertools.product((False, True), repeat=OPS[op].arity):
        assert EVALUATE[op](*values) is expected(op, *values, dtype=torch.bool)


def test_division_and_remainder_round_towards_minus_infinity():
    assert [EVALUATE[Op.FLOORDIV](a, b) for a, b in ((7, 2), (-7, 2), (7, -2), (-7.5, 2.0))] == [3, -4, -4, -4.0]
    assert [EVALUATE[Op.MOD](a, b) for a, b in ((7, 3), (-7, 3), (7, -3), (-7.5, 2.0))] == [1, 2, -2, 0.5]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_to_a_half_is_torchs(dtype: str):
    values = (
        *SPECIAL,
        65504.0,
        65519.9,
        65520.0,
        1 / 3,
        1 + 2**-8,
        1 + 3 * 2**-9,
        1 + 2**-11 + 2**-40,
        3.4e38,
        6e-8,
        1e-41,
    )
    for value in values:
        rounded = torch.tensor(value, dtype=torch.float64).float().to(getattr(torch, dtype)).double().item()
        assert agree(round_to(dtype, value), rounded), value
        assert agree(evaluate(narrow(SCORE, dtype), {"score": value}), rounded)


def test_inputs_parameters_and_captures_are_read_by_name():
    root = apply(Op.ADD, apply(Op.MUL, Q_IDX, param("n")), load("t", Scalar.INDEX, Q_IDX, const(2)))
    assert evaluate(root, {"q_idx": 5, "n": 7}, lambda name, index: {("t", (5, 2)): 100}[name, index]) == 135
    with pytest.raises(KeyError, match="no captured tensor t"):
        evaluate(root, {"q_idx": 5, "n": 7})


def test_conversions_change_the_kind_of_number():
    cases: list[tuple[Expr, object]] = [
        (cast(SCORE, Scalar.INDEX), -2),
        (cast(Q_IDX, Scalar.FLOAT), 5.0),
        (cast(SCORE, Scalar.BOOL), True),
        (apply(Op.WHERE, apply(Op.LT, SCORE, Q_IDX), TRUE, FALSE), True),
    ]
    for root, value in cases:
        result = evaluate(root, {"score": -2.75, "q_idx": 5})
        assert (result, type(result)) == (value, type(value))

"""The printer: what it prints is read back as the same nodes, and is what a person would write."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings

from attncc.frontend import parse
from attncc.ir import (
    H,
    KV_IDX,
    OPS,
    Q_IDX,
    Q_LEN,
    SCORE,
    TRUE,
    AttentionSpec,
    Capture,
    Op,
    Origin,
    Parameter,
    Scalar,
    apply,
    cast,
    const,
    load,
    narrow,
    node,
    param,
    print_expr,
    print_spec,
)
from attncc.ir.naming import NOUNS, describe
from attncc.source import Source, Span
from tests.share import share
from tests.strategies import chain, doubled, specs

DISTANCE = apply(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = apply(Op.GE, Q_IDX, KV_IDX)
NEAR = apply(Op.LT, DISTANCE, const(8))


@settings(max_examples=share(2000))
@given(specs())
def test_what_is_printed_is_read_back_as_the_same_spec(spec):
    text = print_spec(spec)
    again = parse(text)
    assert again == spec
    assert again.score is spec.score
    assert print_spec(again) == text


@settings(max_examples=share(200))
@given(specs())
def test_text_with_the_authors_names_and_origins_is_read_back_too(spec):
    spec = parse(print_spec(spec))
    assert parse(print_spec(spec, names="user", origins=True)) == spec


def spec_of(expr):
    """A spec that holds an expression of any kind."""
    captures = (Capture("t", Scalar.FLOAT, ("heads",)), Capture("z", Scalar.FLOAT, ()), Capture("i", Scalar.INDEX, (4,)))
    parameters = (Parameter("w", 8),)
    if expr.scalar is Scalar.BOOL:
        return AttentionSpec("x", mask=expr, captures=captures, parameters=parameters)
    return AttentionSpec("x", score=cast(expr, Scalar.FLOAT), captures=captures, parameters=parameters)


def assert_round_trip(expr):
    spec = spec_of(expr)
    assert parse(print_spec(spec)) == spec, print_spec(spec)


CONSTANTS = (
    *(0, 1, -1, 2**63 - 1, -(2**63), 1.0, -1.0, 0.0, -0.0, 0.1, 1e16, 1e22, 5e-324, 1.7976931348623157e308, -2.5e-7),
    *(math.inf, -math.inf, math.nan, math.pi),
)


@pytest.mark.parametrize("value", CONSTANTS, ids=repr)
def test_constants_keep_their_kind_sign_and_bits(value):
    if isinstance(value, int):
        assert_round_trip(apply(Op.LE, KV_IDX, const(value)))
    assert_round_trip(apply(Op.MUL, SCORE, const(float(value))))
    assert_round_trip(apply(Op.LT, const(float(value)), SCORE) if False else const(float(value)))


@pytest.mark.parametrize("op", [op for op in OPS if op not in (Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD, Op.CAST, Op.NARROW)])
@pytest.mark.parametrize("kinds", ["bool", "int", "float", "bool int", "int bool", "int float", "float int", "bool float"])
def test_every_operation_on_every_mixture_of_kinds_survives(op, kinds):
    leaves = {"bool": [CAUSAL, NEAR], "int": [Q_IDX, KV_IDX], "float": [load("t", Scalar.FLOAT, H), SCORE]}
    picked = [leaves[kind][i % 2] for i, kind in enumerate((kinds.split() * 3)[:3])]
    operands = [CAUSAL, *picked[:2]] if op is Op.WHERE else picked[: OPS[op].arity]
    if op in (Op.SHIFT_LEFT, Op.SHIFT_RIGHT) or (op is Op.POW and operands[0].scalar is Scalar.INDEX):
        operands[1] = const(3)
    from attncc.errors import LanguageError

    try:
        made = apply(op, *operands)
    except LanguageError:
        return
    if SCORE in operands and made.scalar is Scalar.BOOL:
        made = cast(made, Scalar.FLOAT)
    assert_round_trip(made)
    for scalar in (Scalar.FLOAT, Scalar.INDEX):
        converted = cast(made, scalar)
        assert_round_trip(converted)
        assert_round_trip(apply(Op.ADD, converted, cast(CAUSAL, Scalar.FLOAT)))
        assert_round_trip(apply(Op.SUB, cast(Q_IDX, Scalar.FLOAT), cast(converted, Scalar.FLOAT)))

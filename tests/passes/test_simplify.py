"""Simplification of whole expressions: the same value, a form that is stable, in little time."""

from __future__ import annotations

import math
import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncc.ir import (
    FALSE,
    KV_IDX,
    KV_LEN,
    NEG_INF,
    Q_IDX,
    SCORE,
    TRUE,
    B,
    Expr,
    H,
    Op,
    Scalar,
    apply,
    cast,
    conjunction,
    const,
    evaluate,
    load,
    param,
    postorder,
)
from attncc.ir.verify import check
from attncc.passes import derive, simplify
from tests.share import SEED, share
from tests.strategies import Problem, chain, doubled, exprs, random_expr

N = param("n")
X = load("x", Scalar.FLOAT)
DISTANCE = apply(Op.SUB, Q_IDX, KV_IDX)


def whole(value: int) -> Expr:
    return const(value)


def test_random_expressions_keep_their_value():
    for seed in range(share(3000)):
        expr, problem = random_expr(SEED + seed, tuple(Scalar)[seed % 3], 5)
        assert_same_value(expr, simplify(expr), problem, seed)


def assert_same_value(before: Expr, after: Expr, problem: Problem, seed: int) -> None:
    numbers = random.Random(seed)
    read, sizes = problem.loader(problem.values()), problem.sizes
    for score in (0.0, -0.0, math.nan, math.inf, -math.inf, 1.5, numbers.gauss(0, 2)):
        at = problem.inputs_at(
            numbers.randrange(sizes.batch),
            numbers.randrange(sizes.heads),
            numbers.randrange(sizes.q_len),
            numbers.randrange(sizes.kv_len),
            score,
        )
        try:
            expected = evaluate(before, at, read)
        except (ValueError, OverflowError, ZeroDivisionError):  # int(nan), and what has no meaning on ints
            continue
        actual = evaluate(after, at, read)
        assert type(actual) is type(expected)
        if isinstance(expected, float) and not math.isnan(expected):
            assert math.isclose(actual, expected, rel_tol=1e-13) or bits(actual) == bits(expected), (seed, before)
        else:
            assert bits(actual) == bits(expected), (seed, before)


def bits(value: float) -> bytes:
    return b"nan" if value != value else struct.pack("d", value)


@given(st.sampled_from(Scalar).flatmap(exprs))
def test_simplifying_again_changes_nothing(drawn: tuple[Expr, Problem]):
    once = simplify(drawn[0])
    check(once)
    assert once.scalar is drawn[0].scalar
    assert simplify(once) is once


def test_parts_of_a_simple_expression_are_simple():
    for seed in range(share(300)):
        once = simplify(random_expr(seed, Scalar.FLOAT, 5)[0])
        assert all(simplify(part) is part for part in postorder(once))


def test_derivatives_of_a_simplified_expression_are_the_same():
    for seed in range(share(500)):
        expr, problem = random_expr(seed, Scalar.FLOAT, 4)
        first, second = derive(expr, SCORE), derive(simplify(expr), SCORE)
        read = problem.loader(problem.values())
        for score in (0.0, 1.0, -0.7, 2.25):
            at = problem.inputs_at(0, 0, 0, 0, score)
            a, b = evaluate(first, at, read), evaluate(second, at, read)
            if math.isfinite(a) and math.isfinite(b):
                assert math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12), (seed, score)


@pytest.mark.parametrize(
    "expr",
    [chain(2000), doubled(600), conjunction(*(apply(Op.NE, KV_IDX, const(i)) for i in range(600)))],
    ids=["chain", "shared", "conjunction"],
)
def test_some_two_thousand_nodes_take_under_a_tenth_of_a_second(expr: Expr):
    assert len(postorder(expr)) > 1000
    fastest = min(timed(expr) for _ in range(5))
    assert fastest < 0.1


def timed(expr: Expr) -> float:
    start = time.process_time()  # the machine is shared
    simplify(expr)
    return time.process_time() - start


def test_five_thousand_levels_are_simplified_without_recursion():
    assert simplify(chain(5000)).scalar is Scalar.FLOAT


CASES = {
    "0 * x stays, for x may be infinite": (apply(Op.MUL, X, const(0.0)), apply(Op.MUL, X, const(0.0))),
    "x - x stays, for x may be NaN": (apply(Op.SUB, X, X), apply(Op.SUB, X, X)),
    "x + 0 stays, for x may be -0": (apply(Op.ADD, X, const(0.0)), apply(Op.ADD, X, const(0.0))),
    "x + -0 is x": (apply(Op.ADD, X, const(-0.0)), X),
    "x == x stays, for x may be NaN": (apply(Op.EQ, X, X), apply(Op.EQ, X, X)),
    "not x < y stays on floats": (apply(Op.NOT, apply(Op.LT, X, SCORE)), apply(Op.NOT, apply(Op.LT, X, SCORE))),
    "not i < j on ints": (apply(Op.NOT, apply(Op.LT, Q_IDX, KV_IDX)), apply(Op.GE, Q_IDX, KV_IDX)),
    "sums of floats are not regrouped": (
        apply(Op.ADD, apply(Op.ADD, X, const(0.1)), const(0.2)),
        apply(Op.ADD, apply(Op.ADD, X, const(0.1)), const(0.2)),
    ),
    "sums of ints are": (apply(Op.ADD, apply(Op.ADD, const(3), Q_IDX), const(4)), apply(Op.ADD, Q_IDX, const(7))),
    "a distance against 0": (apply(Op.GE, DISTANCE, const(0)), apply(Op.GE, Q_IDX, KV_IDX)),
    "a shifted distance": (
        apply(Op.LT, apply(Op.ADD, DISTANCE, const(3)), const(10)),
        apply(Op.LT, DISTANCE, const(7)),
    ),
    "an index within its length": (conjunction(apply(Op.LT, KV_IDX, KV_LEN), apply(Op.GE, KV_IDX, const(0))), TRUE),
    "a multiple divided": (
        apply(Op.FLOORDIV, apply(Op.MUL, Q_IDX, const(12)), const(4)),
        apply(Op.MUL, Q_IDX, const(3)),
    ),
    "nested division": (
        apply(Op.FLOORDIV, apply(Op.FLOORDIV, Q_IDX, const(4)), const(8)),
        apply(Op.FLOORDIV, Q_IDX, const(32)),
    ),
    "a block index in a block": (apply(Op.FLOORDIV, apply(Op.MOD, Q_IDX, const(8)), const(8)), const(0)),
    "a remainder of a sum": (
        apply(Op.MOD, apply(Op.ADD, apply(Op.MUL, Q_IDX, const(8)), H), const(8)),
        apply(Op.MOD, H, const(8)),
    ),
    "contradiction": (
        conjunction(apply(Op.LT, Q_IDX, KV_IDX), apply(Op.EQ, B, const(0)), apply(Op.GE, Q_IDX, KV_IDX)),
        FALSE,
    ),
    "the tighter bound": (
        conjunction(apply(Op.LT, KV_IDX, const(9)), apply(Op.LE, KV_IDX, const(4))),
        apply(Op.LE, KV_IDX, const(4)),
    ),
    "where of a where": (
        apply(Op.WHERE, apply(Op.GT, H, const(1)), apply(Op.WHERE, apply(Op.GT, H, const(1)), SCORE, X), NEG_INF),
        apply(Op.WHERE, apply(Op.GT, H, const(1)), SCORE, NEG_INF),
    ),
    "a bool as a number and back": (
        apply(Op.GT, cast(load("p", Scalar.BOOL), Scalar.INDEX), const(0)),
        load("p", Scalar.BOOL),
    ),
    "division of an int by what may be 0 stays": (apply(Op.FLOORDIV, const(0), N), apply(Op.FLOORDIV, const(0), N)),
    "constants beyond 64 bits stay apart": (
        apply(Op.MUL, apply(Op.MUL, Q_IDX, const(2**62)), const(4)),
        apply(Op.MUL, apply(Op.MUL, Q_IDX, const(2**62)), const(4)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_simple_forms(case: str):
    before, after = CASES[case]
    assert simplify(before) is after

"""Bounds of tests along a walk: they hold wherever the test does, turn once, and say truly where they are exact."""

from __future__ import annotations

import random

import pytest

from attncc.analysis.reach import Reach, directions_of, reach
from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, const, node, param
from attncc.ir.evaluate import evaluate
from tests.share import SEED, share

LOW, HIGH, LIMIT, WIDTH = (param(name) for name in ("kv_min", "kv_max", "q_max", "w"))
RISING = (LOW, HIGH)
FLAG = node(Op.PARAM, (), "flag", Scalar.BOOL)


def walk(root: Expr, number: random.Random) -> list[bool]:
    """The values along 12 tiles whose ends ascend."""
    inputs = {"q_max": number.randrange(30), "w": number.randrange(-3, 9), "flag": number.random() < 0.5}
    found, low = [], 0
    for _ in range(12):
        low += number.randrange(4)
        found.append(bool(evaluate(root, {**inputs, "kv_min": low, "kv_max": low + 3}, None)))
    return found


def random_number(number: random.Random, depth: int) -> Expr:
    if depth == 0:
        return number.choice([LOW, HIGH, LIMIT, WIDTH, const(number.randrange(-4, 20))])
    op = number.choice([Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.FLOORDIV, Op.MOD, Op.NEG, Op.ABS])
    first = random_number(number, depth - 1)
    if op in (Op.NEG, Op.ABS):
        return apply(op, first)
    if op in (Op.FLOORDIV, Op.MOD):
        return apply(op, first, const(number.choice([-3, 2, 5])))
    return apply(op, first, random_number(number, depth - 1))


def random_test(number: random.Random, depth: int) -> Expr:
    if depth == 0:
        op = number.choice([Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE])
        atom = apply(op, random_number(number, number.randrange(3)), random_number(number, number.randrange(2)))
        return number.choice([atom, atom, atom, FLAG])
    op = number.choice([Op.AND, Op.AND, Op.OR, Op.NOT])
    first = random_test(number, depth - 1)
    return apply(op, first) if op is Op.NOT else apply(op, first, random_test(number, depth - 1))


def test_bounds_hold_where_the_test_does_and_turn_once():
    number, exact = random.Random(SEED), 0
    for _ in range(share(2000)):
        root = random_test(number, number.randrange(4))
        found = reach(root, RISING)
        for seed in range(4):
            values, since, until = (walk(e, random.Random(seed)) for e in (root, found.since, found.until))
            assert since == sorted(since)
            assert until == sorted(until, reverse=True)
            both = [a and b for a, b in zip(since, until, strict=True)]
            assert all(b or not v for v, b in zip(values, both, strict=True))
            assert not found.exact or values == both
        exact += found.exact and root not in (TRUE, FALSE)
    assert exact > share(2000) // 4


def test_a_window_and_documents_are_told_exactly():
    window = apply(Op.AND, apply(Op.GE, LIMIT, LOW), apply(Op.GT, apply(Op.ADD, HIGH, WIDTH), LIMIT))
    assert reach(window, RISING) == Reach(window.args[1], window.args[0], True)
    least, most = param("stat0_min"), param("stat0_max")
    overlap = apply(Op.AND, apply(Op.GE, most, LIMIT), apply(Op.GE, LIMIT, least))
    assert reach(overlap, {least, most}).exact
    assert reach(overlap, {}) == Reach(overlap, overlap, True)  # the same for every tile


def test_a_union_of_two_bands_is_bounded_by_both():
    sink, window = apply(Op.LT, LOW, const(4)), apply(Op.GE, HIGH, LIMIT)
    causal = apply(Op.GE, LIMIT, LOW)
    found = reach(apply(Op.AND, apply(Op.OR, sink, window), causal), RISING)
    assert (found.since, found.until, found.exact) == (TRUE, causal, False)


@pytest.mark.parametrize("op", [Op.ADD, Op.SUB, Op.MUL])
def test_sums_of_floats_have_no_direction(op):
    least = node(Op.PARAM, (), "stat0_min", Scalar.FLOAT)
    total = apply(op, least, const(2.0))
    assert directions_of(total, {least})[total] is None
    assert directions_of(apply(Op.GE, least, const(2.0)), {least})[apply(Op.GE, least, const(2.0))] == 1

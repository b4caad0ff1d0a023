"""The normal form of a condition means the same, and its conjunctions too."""

from __future__ import annotations

import pytest

from attncc.analysis.conditions import conjunction_of, conjunctions, normal_condition
from attncc.analysis.logic import negated, parts
from attncc.ir import KV_IDX, Q_IDX, Expr, H, Op, Scalar, cast, const, disjunction, load, param
from tests.analysis.masks import Draw, Undefined, make, truths
from tests.share import share

DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)


@pytest.mark.parametrize("part", range(5))
def test_normal_condition_and_its_conjunctions_mean_the_mask(part: int) -> None:
    solved = 0
    for seed in range(share(2000) // 5):
        draw = Draw(10_000 + seed * 5 + part)
        mask, read = draw.mask(), draw.loader()
        condition = normal_condition(mask)
        terms = conjunctions(condition)
        solved += terms is not None
        for _ in range(3):
            box, inputs = draw.box(), draw.inputs()
            try:
                real = list(truths(mask, box, inputs, read))
                assert list(truths(condition, box, inputs, read)) == real, seed
                assert list(truths(negated(condition), box, inputs, read)) == [not x for x in real], seed
                if terms is not None:
                    union = disjunction(*map(conjunction_of, terms))
                    assert list(truths(union, box, inputs, read)) == real, seed
            except Undefined:
                continue
    assert solved > 0


@pytest.mark.parametrize(
    ("mask", "same"),
    [
        (make(Op.LT, make(Op.ABS, DISTANCE), 5), make(Op.LT, make(Op.ABS, make(Op.SUB, KV_IDX, Q_IDX)), 5)),
        (make(Op.LT, make(Op.ABS, DISTANCE), 5), make(Op.AND, make(Op.LT, DISTANCE, 5), make(Op.GT, DISTANCE, -5))),
        (make(Op.LE, KV_IDX, make(Op.MIN, Q_IDX, 7)), make(Op.AND, make(Op.GE, Q_IDX, KV_IDX), make(Op.LE, KV_IDX, 7))),
        (make(Op.NOT, make(Op.LT, Q_IDX, KV_IDX)), make(Op.GE, make(Op.MUL, DISTANCE, 3), 0)),
        (make(Op.LT, cast(DISTANCE, Scalar.FLOAT), 3.5), make(Op.LE, DISTANCE, 3)),
        (make(Op.EQ, make(Op.LT, H, 2), make(Op.GE, Q_IDX, KV_IDX)),
         make(Op.WHERE, make(Op.LT, H, 2), make(Op.GE, Q_IDX, KV_IDX), make(Op.LT, Q_IDX, KV_IDX))),
    ],
)  # fmt: skip
def test_two_spellings_have_one_normal_form(mask: Expr, same: Expr) -> None:
    found, expected = normal_condition(mask), normal_condition(same)
    assert found.op is expected.op
    assert set(parts(found.op, found)) == set(parts(expected.op, expected))


def test_a_comparison_with_a_captured_float_is_not_turned_round() -> None:
    mask = make(Op.LT, load("thr", Scalar.FLOAT, Q_IDX), 1.0)
    assert normal_condition(make(Op.NOT, mask)) is make(Op.NOT, mask)


def test_a_contradiction_leaves_no_conjunction() -> None:
    w = param("w")
    mask = make(Op.AND, make(Op.LT, DISTANCE, w), make(Op.GE, make(Op.SUB, DISTANCE, w), const(0)))
    assert conjunctions(normal_condition(mask)) == []


def test_a_deep_chain_does_not_recurse() -> None:
    mask = make(Op.EQ, Q_IDX, KV_IDX)
    for i in range(3000):
        mask = make(Op.OR if i % 2 else Op.AND, mask, make(Op.GE, make(Op.ADD, Q_IDX, i), make(Op.MUL, KV_IDX, 2)))
    assert normal_condition(mask).scalar is Scalar.BOOL

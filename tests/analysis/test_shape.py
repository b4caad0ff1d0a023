"""Dependence is found through any depth, and sizes count as nothing."""

from __future__ import annotations

from attncc.analysis import depends, reads_captures, side
from attncc.ir import KV_IDX, KV_LEN, Q_IDX, SCORE, B, H, Op, Scalar, load, param
from tests.analysis.masks import make


def test_an_expression_depends_on_what_it_reads() -> None:
    bias = load("bias", Scalar.FLOAT, H, make(Op.SUB, Q_IDX, KV_IDX))
    assert depends(make(Op.ADD, SCORE, bias)) == {"score", "h", "q_idx", "kv_idx"}
    assert depends(make(Op.ADD, KV_LEN, param("window"))) == frozenset()
    assert reads_captures(bias)
    assert not reads_captures(SCORE)


def test_sides() -> None:
    assert side(make(Op.ADD, Q_IDX, B)) == "q"
    assert side(load("length", Scalar.INDEX, B)) == "point"
    assert side(make(Op.LT, KV_IDX, load("length", Scalar.INDEX, B))) == "kv"
    assert side(make(Op.SUB, Q_IDX, KV_IDX)) == "pair"


def test_a_deep_expression_does_not_recurse() -> None:
    expr = Q_IDX
    for i in range(5000):
        expr = make(Op.ADD, make(Op.MUL, expr, 3), i % 7)
    assert depends(expr) == {"q_idx"}

"""Rewriting and substituting, on deep and shared expressions, without recursion."""

from __future__ import annotations

import pytest

from attncc.errors import InternalError
from attncc.ir import (
    KV_IDX,
    Q_IDX,
    SCORE,
    Expr,
    Op,
    Scalar,
    apply,
    cast,
    const,
    node,
    postorder,
    rewrite,
    substitute,
    with_args,
)
from tests.strategies import chain, doubled


def drop_zero(expr: Expr) -> Expr | None:
    return expr.args[0] if expr.args[1] is const(0) else None


def test_rules_apply_bottom_up_until_none_does():
    nested = Q_IDX
    for _ in range(10):
        nested = node(Op.ADD, (nested, const(0)), None, Scalar.INDEX)
    assert rewrite(nested, {Op.ADD: (drop_zero,)}) is Q_IDX
    assert rewrite(nested, {Op.MUL: (drop_zero,)}) is nested
    assert rewrite(nested, {}) is nested


def test_what_a_rule_makes_is_rewritten_in_its_turn():
    def halve(expr: Expr) -> Expr | None:
        size = expr.args[1].value
        return node(Op.ADD, (expr.args[0], const(size // 2)), None, Scalar.INDEX) if size > 1 else None

    expr = node(Op.ADD, (Q_IDX, const(1024)), None, Scalar.INDEX)
    assert rewrite(expr, {Op.ADD: (halve,)}).args[1] is const(1)


def test_the_first_rule_that_applies_wins():
    seen: list[str] = []

    def first(expr: Expr) -> Expr | None:
        seen.append("first")
        return None

    def second(expr: Expr) -> Expr | None:
        seen.append("second")
        return KV_IDX

    assert rewrite(apply(Op.ADD, Q_IDX, const(1)), {Op.ADD: (first, second)}) is KV_IDX
    assert seen == ["first", "second"]


def test_shared_nodes_are_rewritten_once():
    calls: list[Expr] = []

    def count(expr: Expr) -> None:
        calls.append(expr)

    expr = doubled(300)
    rewrite(expr, dict.fromkeys(Op, (count,)))
    assert len(calls) == len(set(calls)) == len(postorder(expr))


def test_rules_without_end_are_a_bug_that_is_named():
    def swap(expr: Expr) -> Expr:
        return node(Op.ADD, expr.args[::-1], None, Scalar.INDEX)

    with pytest.raises(InternalError, match="the rules of `add` do not come to an end"):
        rewrite(apply(Op.ADD, Q_IDX, KV_IDX), {Op.ADD: (swap,)})


def test_depth_is_no_limit():
    expr = chain(5000)
    assert rewrite(expr, {}) is expr
    assert len(postorder(substitute(expr, {SCORE: cast(Q_IDX, Scalar.FLOAT)}))) > 5000


def test_substitution_replaces_all_at_once():
    expr = apply(Op.SUB, Q_IDX, KV_IDX)
    assert substitute(expr, {Q_IDX: KV_IDX, KV_IDX: Q_IDX}) is apply(Op.SUB, KV_IDX, Q_IDX)
    assert substitute(expr, {expr: const(7), Q_IDX: const(1)}) is const(7)
    assert substitute(expr, {}) is expr


def test_other_arguments_keep_the_operation_and_its_value():
    expr = node(Op.NARROW, (SCORE,), "float16", Scalar.FLOAT)
    other = with_args(expr, (const(1.5),))
    assert (other.op, other.value, other.scalar) == (Op.NARROW, "float16", Scalar.FLOAT)
    assert with_args(expr, (SCORE,)) is expr

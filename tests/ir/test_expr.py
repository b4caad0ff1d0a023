"""Interned expressions: what is alike is the same object, at any depth and from any thread."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import threading

import pytest

from attncc.ir import INPUTS, KV_IDX, Q_IDX, SCORE, Expr, Op, Scalar, apply, const, input_, load, node, param, postorder
from attncc.ir.expr import _TABLE
from tests.strategies import chain, doubled


def test_what_is_built_alike_is_the_same_object():
    assert apply(Op.ADD, Q_IDX, const(1)) is apply(Op.ADD, Q_IDX, const(1))
    assert apply(Op.ADD, Q_IDX, const(1)) is not apply(Op.ADD, KV_IDX, const(1))
    assert load("t", Scalar.FLOAT, Q_IDX) is load("t", Scalar.FLOAT, Q_IDX)
    assert load("t", Scalar.FLOAT, Q_IDX) is not load("t", Scalar.INDEX, Q_IDX)
    assert param("n") is param("n")
    assert all(input_(name) is input_(name) and input_(name).scalar is kind for name, kind in INPUTS.items())


def test_one_one_point_zero_and_true_are_three_constants():
    assert len({const(1), const(1.0), const(True)}) == 3
    assert [e.scalar for e in (const(1), const(1.0), const(True))] == [Scalar.INDEX, Scalar.FLOAT, Scalar.BOOL]


def test_zeros_of_both_signs_differ_and_nan_is_itself():
    assert const(0.0) is not const(-0.0)
    assert const(math.nan) is const(float("nan"))


def test_expressions_are_immutable_and_made_by_functions_only():
    with pytest.raises(AttributeError, match="immutable"):
        SCORE.value = "other"
    with pytest.raises(TypeError, match=r"attncc\.ir\.node"):
        Expr()


def test_copies_and_pickles_are_the_same_object():
    expr = apply(Op.MUL, SCORE, load("t", Scalar.FLOAT, Q_IDX, apply(Op.MOD, KV_IDX, const(3))))
    assert copy.copy(expr) is expr
    assert copy.deepcopy(expr) is expr
    assert pickle.loads(pickle.dumps(expr)) is expr


@pytest.mark.parametrize("expr", [chain(5000), doubled(2000)], ids=["deep", "shared"])
def test_deep_and_shared_expressions_pickle_without_recursion(expr: Expr):
    data = pickle.dumps(expr)
    assert len(data) < 1_000_000
    assert pickle.loads(data) is expr


def test_postorder_lists_each_node_once_after_its_arguments():
    expr = doubled(50)
    order = postorder(expr)
    assert len(order) == len(set(order))
    place = {e: i for i, e in enumerate(order)}
    assert all(place[arg] < place[e] for e in order for arg in e.args)
    assert order[-1] is expr
    assert postorder(expr) == order
    assert postorder(Q_IDX, expr)[0] is Q_IDX


def test_nodes_that_nobody_holds_are_forgotten():
    gc.collect()
    before = len(_TABLE)
    held = [apply(Op.ADD, Q_IDX, const(10_000_000 + i)) for i in range(100)]
    assert len(_TABLE) >= before + 200
    held.clear()
    gc.collect()
    assert len(_TABLE) <= before


def test_threads_make_the_same_nodes():
    made: list[list[Expr]] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append([apply(Op.MUL, apply(Op.ADD, Q_IDX, const(i)), const(i + 1)) for i in range(500)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for other in made[1:] for a, b in zip(made[0], other, strict=True))


def test_the_representation_shows_one_level():
    expr = apply(Op.ADD, apply(Op.MUL, Q_IDX, const(2)), const(1))
    assert repr(expr) == "add(mul(…), const(1): int): int"
    assert repr(node(Op.NARROW, (SCORE,), "float16", Scalar.FLOAT)) == "narrow('float16', input('score'): float): float"

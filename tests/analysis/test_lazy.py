"""A program that works out only what decides has the values of its expressions."""

from __future__ import annotations

import random

import pytest

from attncc.analysis.compiled import settled
from attncc.analysis.lazy import program_of
from attncc.analysis.quotients import Wider
from attncc.ir import FALSE, KV_IDX, Q_IDX, TRUE, Op, evaluate
from tests.analysis.masks import Draw, make
from tests.share import share


def test_values_are_those_of_the_expressions() -> None:
    r = random.Random(1)
    compared = 0
    for seed in range(share(2000)):
        draw = Draw(seed, captures=False)
        inputs = draw.inputs()
        roots = [settled(draw.mask(), inputs) for _ in range(2)]
        program = program_of(roots, ("q_idx",), ("kv_idx",))
        for _ in range(4):
            q = r.randrange(24)
            row = program.row(q)
            for kv in r.sample(range(24), 3):
                for root, function in zip(roots, program.functions, strict=True):
                    try:
                        expected = evaluate(root, {"q_idx": q, "kv_idx": kv})
                    except (ZeroDivisionError, ValueError, OverflowError):
                        continue
                    assert function(row, program.tile(kv)) == expected
                    compared += 1
    assert compared > share(2000) * 12


def test_what_the_row_has_decided_is_not_worked_out_again() -> None:
    asked = []

    class Number(int):
        def __floordiv__(self, other: int) -> int:  # type: ignore[override]
            asked.append(other)
            return int(self) // other

    block = make(Op.FLOORDIV, Q_IDX, 3)
    program = program_of([make(Op.GT, make(Op.ADD, block, KV_IDX), make(Op.MUL, block, 2))], ("q_idx",), ("kv_idx",))
    row = program.row(Number(7))
    assert [program.functions[0](row, program.tile(kv)) for kv in (2, 3)] == [False, True]
    assert asked == [3]


@pytest.mark.parametrize(("op", "decides"), [(Op.AND, False), (Op.OR, True)])
def test_a_part_that_is_undecided_does_not_hinder_others(op: Op, decides: bool) -> None:
    class Undecided:
        def __ge__(self, other: object) -> bool:
            raise Wider(2, 1)

    mask = make(op, make(Op.GE, Q_IDX, 5), make(Op.GE, make(Op.ADD, KV_IDX, 1), 9))
    program = program_of([mask], ("q_idx",), ("kv_idx",))
    assert program.functions[0](program.row(Undecided()), program.tile(20 if decides else 0)) is decides
    with pytest.raises(Wider):
        program.functions[0](program.row(Undecided()), program.tile(0 if decides else 20))


def test_deep_expressions_compile() -> None:
    deep = Q_IDX
    for i in range(2000):
        deep = make(Op.MIN if i % 2 else Op.MAX, make(Op.ADD, deep, KV_IDX), i % 7)
    program = program_of([make(Op.GE, deep, 0), TRUE, FALSE], ("q_idx",), ("kv_idx",))
    assert [function([], []) for function in program.functions[1:]] == [True, False]
    assert program.functions[0](program.row(3), program.tile(4)) == evaluate(
        make(Op.GE, deep, 0), {"q_idx": 3, "kv_idx": 4}
    )

"""A box is said to hold a solution exactly when it does, over the integers."""

from __future__ import annotations

import random

import pytest

from attncc.analysis.integers import Side, has_solution
from attncc.analysis.linear import form_of
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN, ExprNumbers
from attncc.ir import KV_IDX, Q_IDX, Op, const, evaluate, param
from tests.analysis.masks import make
from tests.share import share

Q, KV = Side(Q_IDX, form_of(Q_MIN), form_of(Q_MAX)), Side(KV_IDX, form_of(KV_MIN), form_of(KV_MAX))


@pytest.mark.parametrize("largest", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("symbolic", [False, True])
def test_a_solution_is_found_exactly_where_there_is_one(largest: int, symbolic: bool) -> None:
    r = random.Random(largest)
    numbers = ExprNumbers({Q_MAX: Q_MIN, KV_MAX: KV_MIN})
    empty = full = 0
    for _ in range(share(600)):
        count = r.randrange(1, 5)
        rows = [(r.randint(-largest, largest), r.randint(-largest, largest), r.randint(-60, 60)) for _ in range(count)]
        if r.random() < 0.4:  # an equation, or a narrow strip, which misses many boxes
            a, c, e = rows[0]
            rows.append((-a, -c, -e + r.choice([0, 0, 1])))
        forms = []
        for i, (a, c, e) in enumerate(rows):
            constant = param(f"e{i}") if symbolic else const(e)
            forms.append(form_of(make(Op.ADD, make(Op.ADD, make(Op.MUL, Q_IDX, a), make(Op.MUL, KV_IDX, c)), constant)))
        found = has_solution(numbers, forms, Q, KV)
        assert found is not None
        for _ in range(5):
            q, kv = r.randrange(0, 30), r.randrange(0, 30)
            size = r.choice([1, 2, 3, 4, 8])
            box = {"q_min": q, "q_max": q + size - 1, "kv_min": kv, "kv_max": kv + r.choice([1, 2, 4, 8]) - 1}
            real = any(
                all(a * x + c * y + e >= 0 for a, c, e in rows)
                for x in range(box["q_min"], box["q_max"] + 1)
                for y in range(box["kv_min"], box["kv_max"] + 1)
            )
            claimed = evaluate(found, box | {f"e{i}": e for i, (_, _, e) in enumerate(rows)})
            assert claimed == real, (rows, box)
            empty, full = empty + (not real), full + real
    assert empty > 20
    assert full > 20

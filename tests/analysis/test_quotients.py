"""What two lines on either side of a quotient decide is what the quotient itself decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from attncc.analysis.lines import Column, Limit, Line
from attncc.analysis.quotients import Between, Wider, exact
from tests.share import share

Number = Callable[[Any, Any], Any]


def number(r: random.Random, depth: int) -> Number:
    """A random whole number of a row and a column: sums of multiples, quotients and remainders."""
    if depth == 0:
        a, b, c = (r.choice((-3, -1, 0, 1, 2, 5)) for _ in range(3))
        return lambda row, column: a * row + b * column + c * 7
    x, y, d = number(r, depth - 1), number(r, depth - 1), r.choice((2, 3, 5, -4, 8))
    kinds: list[Number] = [
        lambda row, column: x(row, column) // d,
        lambda row, column: x(row, column) % d,
        lambda row, column: x(row, column) + y(row, column),
        lambda row, column: x(row, column) - y(row, column),
        lambda row, column: -x(row, column) * d,
        lambda row, column: abs(x(row, column)),
        lambda row, column: min(x(row, column), y(row, column)),
    ]
    return r.choice(kinds)


def conditions(x: Number, y: Number) -> list[Callable[[Any, Any], bool]]:
    return [
        lambda row, column: x(row, column) >= y(row, column),
        lambda row, column: x(row, column) > y(row, column),
        lambda row, column: x(row, column) < y(row, column),
        lambda row, column: x(row, column) <= 7,
        lambda row, column: x(row, column) == y(row, column),
        lambda row, column: x(row, column) != 3,
        lambda row, column: bool(x(row, column)),
    ]


def test_a_decided_comparison_holds_for_every_row_and_column_of_its_piece() -> None:
    r = random.Random(5)
    decided = 0
    for _ in range(share(20_000)):
        condition = r.choice(conditions(number(r, r.randrange(4)), number(r, r.randrange(3))))
        row, column, row_stride, column_stride = (r.randrange(1, 9) for _ in range(4))
        rows, columns = Limit(r.randrange(12)), Limit(r.randrange(12))
        try:
            found = condition(Line(row, row_stride, rows), Column(column, column_stride, columns))
        except Wider as wider:
            if wider.rows == wider.columns == 1:
                pytest.fail("no stride decides this")
            continue
        decided += 1
        for k in range(rows.rows + 1):
            width = columns.rows if isinstance(columns.rows, int) else columns.rows.value + columns.rows.slope * k
            for j in range(width + 1):
                assert condition(row + row_stride * k, column + column_stride * j) is found
    assert decided > share(20_000) // 3


def test_a_wider_stride_makes_a_line_of_a_quotient() -> None:
    quotient = Line(5, 128, Limit(100)) // 12
    assert isinstance(quotient, Between)
    with pytest.raises(Wider) as found:
        exact(quotient)
    assert found.value.rows == 3
    wider = Line(5, 128 * found.value.rows, Limit(33)) // 12
    assert (wider.value, wider.slope) == (0, 32)


def test_distant_quotients_are_told_apart_without_one() -> None:
    limit = Limit(8000)
    low = Line(0, 128, limit)
    assert (low + 127) // 9 > low // 9
    assert limit.rows == 8000
    with pytest.raises(Wider):
        bool((low + 4) // 9 > low // 9)

"""Sums over rows in closed form are those of the rows one by one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from attncc.analysis.bands import summarize_mask
from attncc.analysis.count import Grid, count_tiles, row_runs, rows
from attncc.analysis.quotients import Unsolvable
from attncc.analysis.runs import runs
from attncc.errors import UnsupportedError
from tests.analysis.masks import Draw
from tests.analysis.test_count import MASKS, WINDOW
from tests.share import share

ROWS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "lines": lambda i: (3 * i + 1, 7 - i),
    "a corner": lambda i: (min(2 * i, 50), max(0, i - 20)),
    "a distance": lambda i: (abs(30 - i), abs(i - 31)),
    "quotients": lambda i: ((128 * i + 5) // 64, (i + 3) // 4, -(-i // 6)),
    "remainders": lambda i: ((5 * i) % 12, i % 3 + (i - 7) % 2),
    "a condition": lambda i: (i if i == 40 else 0, 2 * i if i != 17 else 1, 5 if i > 10 and i <= 60 else i),
    "a truth": lambda i: (1 if i - 33 else 0,),
    "numbers on the left": lambda i: (5 - i, 2 * i, int(i < 100), int(i >= 3)),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [0, 1, 5, 97])
def test_runs_cover_every_row_once(name: str, count: int) -> None:
    row = ROWS[name]
    found = runs(row, count)
    expected = [row(i) for i in range(count)]
    assert sum(run.count for run in found) == count
    assert [sum(run.totals[j] for run in found) for j in range(len(row(0)) if count else 0)] == [
        sum(values[j] for values in expected) for j in range(len(row(0)) if count else 0)
    ]
    listed = [tuple(a + s * k for a, s in zip(r.start, r.slope, strict=True)) for r in found for k in range(r.count)]
    assert sorted(listed) == sorted(expected)


def test_what_is_no_line_is_refused() -> None:
    for row in (lambda i: (i * i,), lambda i: (100 // (i + 1),), lambda i: (float(i),), lambda i: (i // 1009,)):
        with pytest.raises(Unsolvable):
            runs(row, 100)


@pytest.mark.parametrize("name", MASKS)
def test_tiles_are_those_of_the_rows_one_by_one(name: str) -> None:
    shape, r = summarize_mask(MASKS[name]), random.Random(name)
    for _ in range(share(60)):
        grid = Grid(r.randrange(1, 700), r.randrange(1, 700), r.choice((1, 4, 16)), r.choice((1, 4, 8, 32)))
        inputs = {"b": 0, "h": r.randrange(4), "batch": 1, "heads": 4, "w": r.choice((1, 7, 11, 64, 2000))}
        one_by_one = list(rows(shape, grid, inputs))
        found = row_runs(shape, grid, inputs)
        assert sum(run.count for run in found) == len(one_by_one)
        counts = count_tiles(shape, grid, inputs)
        assert (counts.full, counts.partial) == tuple(map(sum, zip(*one_by_one, strict=True)))


def test_random_masks_are_counted_as_their_rows_one_by_one() -> None:
    closed = 0
    for seed in range(share(300)):
        draw = Draw(seed, captures=False, floats=False)
        r, shape = draw.random, summarize_mask(draw.mask())
        grid = Grid(r.randrange(1, 400), r.randrange(1, 400), r.choice((1, 4, 16)), r.choice((1, 4, 8, 32)))
        inputs = {**draw.inputs(), "w": r.randrange(1, 30), "s": r.randrange(1, 12)}
        try:
            one_by_one = [tuple(map(sum, zip(*rows(shape, grid, inputs), strict=True)))]
        except (UnsupportedError, ZeroDivisionError, OverflowError, ValueError):
            continue
        counts = count_tiles(shape, grid, inputs)
        assert [(counts.full, counts.partial)] == one_by_one, seed
        closed += len(row_runs(shape, grid, inputs)) < -(-grid.q_len // grid.tile_q)
    assert closed > share(300) // 3
    print(f"in closed form: {closed} of {share(300)}")


def test_a_million_tokens_cost_no_more_than_a_thousand() -> None:
    shape = summarize_mask(WINDOW)
    for length in (1 << 10, 1 << 20):
        found = row_runs(shape, Grid(length, length, 128, 64), {"w": 4096})
        assert len(found) <= 3
    start = time.process_time()
    count_tiles(shape, Grid(1 << 20, 1 << 20, 128, 64), {"w": 4096})
    assert time.process_time() - start < 0.1

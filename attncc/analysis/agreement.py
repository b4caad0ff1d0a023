"""Closed forms against classification by intervals, before they are used.

The samples are small tiles and single pairs near the diagonal and at the ends of sequences, with parameters of all
sizes. Where the interval rules prove a tile empty or full, and at a pair of each tile, which is a tile of its own,
ranges and tile test must not say otherwise. What disagrees is a bug of attncc, and raises InternalError. This guards
against mistakes; the proof for every length is `attncc.analysis.certificate`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval, point
from attncc.analysis.samples import Call, Samples
from attncc.analysis.shape import reads_captures
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN
from attncc.errors import InternalError
from attncc.ir import BATCH, HEADS, KV_LEN, Q_LEN, B, Expr, H, Op, postorder


def _drawn(count: int) -> Iterator[Call]:
    """Tiles at distances at which masks turn: of one pair, and of a few."""
    draw = random.Random(0)
    for number in range(count):
        rows, columns = (1, 1) if number % 2 else (draw.choice((1, 2, 4, 16)), draw.choice((1, 2, 4, 16)))
        length = draw.choice((33, 64, 100, 400))
        q = draw.choice((0, draw.randrange(length - rows), 16 * draw.randrange(1, 3) - rows, length - rows))
        kv = q - draw.choice((0, 0, 1, 2, 3, 4, 5, 8, 16, 17, 60, 61, 127, 128, -1, -2, -3, -4, -7, -16))
        kv = min(max(0, kv), length - columns)
        yield draw.choice((1, 3)), draw.choice((4, 8)), length, length, (q, q + rows - 1), (kv, kv + columns - 1)


#: Calls as in `attncc.analysis.samples`; the first of them are classified by intervals too.
CHECKED: Final[tuple[Call, ...]] = (
    (1, 8, 4096, 4096, (2048, 2175), (0, 63)),
    (1, 8, 4096, 4096, (256, 383), (2048, 2111)),
    (2, 4, 64, 64, (40, 43), (40, 43)),
    (2, 4, 64, 64, (16, 23), (8, 15)),
    (1, 4, 40, 100, (36, 39), (96, 99)),
    (3, 4, 50, 50, (48, 49), (0, 1)),
    *_drawn(90),
)
CLASSIFIED: Final = 6
#: Tests of thousands of operations are evaluated in fewer calls: operations times calls stay below this.
MOST_WORK: Final = 150_000
LEAST_CHECKED: Final = 32
_NAMES: Final = {str(each.value): each for each in (B, H, BATCH, HEADS, Q_LEN, KV_LEN)}
#: start, stop, full_start, full_stop and when of a range.
Ends = tuple[Expr, Expr, Expr, Expr, Expr]


def check_agreement(
    mask: Expr, tests: tuple[Expr, Expr], kv: Sequence[Ends], q: Sequence[Ends], positive: Iterable[Expr]
) -> None:
    """Raise InternalError where a tile of a sample is judged against the mask. `tests` are visit and full."""
    if reads_captures(mask):
        return
    order = postorder(*tests)
    calls = CHECKED[: max(LEAST_CHECKED, MOST_WORK // len(order))]
    samples = Samples({}, positive, calls)
    samples.work_out(order)
    leaves = {**_NAMES, **{str(e.value): e for e in postorder(mask) if e.op is Op.PARAM}}
    judged = _judged(samples, tests, kv, q)
    for number, (visible, (visited, full)) in enumerate(zip(samples.values(mask), judged, strict=True)):
        if visited is None or visible != visible:
            continue
        values = {name: int(samples.values(leaf)[number]) for name, leaf in leaves.items() if number < CLASSIFIED}
        found = _classified(mask, calls[number], values) if values else Interval(bool(visible), bool(visible))
        left_out = not visited and (found.lo is True or bool(visible))
        if left_out or (full and (found.hi is False or not visible)):
            wrong = "left out" if left_out else "taken for full"
            values = {name: int(samples.values(leaf)[number]) for name, leaf in leaves.items()}
            tile = f"q_idx {calls[number][4]}, kv_idx {calls[number][5]}, {values}"
            raise InternalError(f"a tile of this mask is {wrong}: {tile}", hint="report this mask")


def _classified(mask: Expr, call: Call, values: dict[str, int]) -> Interval:
    named = {name: point(value) for name, value in values.items()}
    return bounds(mask, Box({**named, "q_idx": Interval(*call[4]), "kv_idx": Interval(*call[5])}, {}))


def _judged(
    samples: Samples, tests: tuple[Expr, Expr], kv: Sequence[Ends], q: Sequence[Ends]
) -> Iterator[tuple[bool | None, bool]]:
    """For each call whether ranges and test visit its tile, None for unknown, and whether one takes it for full."""
    roots = [*tests, *(end for each in (*kv, *q) for end in each)]
    sides = ((kv, KV_MIN, KV_MAX), (q, Q_MIN, Q_MAX))
    tiles = [list(zip(samples.values(first), samples.values(last), strict=True)) for _, first, last in sides]
    for number, row in enumerate(zip(*map(samples.values, roots), strict=True)):
        if any(value != value for value in row):
            yield None, False
            continue
        visited, full = map(bool, row[:2])
        ends = iter([row[i : i + 5] for i in range(2, len(row), 5)])
        for (ranges, _, _), tile in zip(sides, tiles, strict=True):
            lo, hi = tile[number]
            mine = [each for each in islice(ends, len(ranges)) if each[4]]
            visited &= any(max(start, lo) < min(stop, hi + 1) for start, stop, *_ in mine)
            full |= any(start <= lo and hi < stop for _, _, start, stop, _ in mine)
        yield visited, full

"""Ranges hold every visible pair, full ranges nothing else; linear masks visit exactly the tiles that hold a pair."""

from __future__ import annotations

import random
from typing import Any

import pytest

from attncc.analysis import Visit
from attncc.analysis.bands import Bands, Dense, MaskShape, Range, Tabulated, summarize_mask
from attncc.ir import KV_IDX, Q_IDX, B, Expr, H, Op, evaluate, param
from tests.analysis.masks import LENGTH, Draw, Undefined, actual, is_sound, make
from tests.analysis.test_tiles import by_test
from tests.share import share

DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)


def active(each: Range, values: dict[str, Any], read: Any = None) -> tuple[range, range]:
    """The positions of a range, and those that need no mask, as numbers."""
    if not evaluate(each.when, values, read):
        return range(0), range(0)
    ends = [int(evaluate(e, values, read)) for e in (each.start, each.stop, each.full_start, each.full_stop)]
    return range(ends[0], ends[1]), range(ends[2], ends[3])


def statistics(shape: MaskShape, axis: str, first: int, last: int, inputs: dict[str, int], read: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in shape.test.statistics:
        if each.axis == axis:
            name = "q_idx" if axis == "q" else "kv_idx"
            found = [evaluate(each.expr, {**inputs, name: i}, read) for i in range(first, last + 1)]
            numbers = [x for x in found if x == x]
            values[f"stat{each.number}_min"] = min(numbers, default=float("nan"))
            values[f"stat{each.number}_max"] = max(numbers, default=float("nan"))
            values[f"stat{each.number}_nan"] = len(numbers) < len(found)
    return values


def check_ranges(
    mask: Expr, shape: Bands | Tabulated, axis: str, tile: tuple[int, int], inputs: Any, read: Any
) -> None:
    """Against every pair of one tile of `axis` with the whole other side."""
    first, last = tile
    ends = {f"{axis}_min": first, f"{axis}_max": last}
    values = {**inputs, **ends, **statistics(shape, axis, first, last, inputs, read)}
    ranges = [active(r, values, read) for r in (shape.kv_ranges if axis == "q" else shape.q_ranges)]
    for position in range(LENGTH):
        box = (first, last, position, position) if axis == "q" else (position, position, first, last)
        real = actual(mask, box, inputs, read)
        reached = any(position in visit for visit, _ in ranges)
        assert reached or real is Visit.SKIP, (axis, tile, position, inputs)
        assert real is Visit.FULL or not any(position in full for _, full in ranges), (axis, tile, position, inputs)
        if isinstance(shape, Bands) and shape.exact and evaluate(shape.assume, inputs):
            assert not reached or real is not Visit.SKIP, ("exact", axis, tile, position, inputs)
    starts = [visit.start for visit, _ in ranges if len(visit)]
    assert starts == sorted(starts), (starts, inputs)


def check(mask: Expr, draw: Draw, read: Any, tries: int = 3) -> MaskShape:
    """A mask's summary against the pairs of random tiles."""
    shape = summarize_mask(mask)
    for _ in range(tries):
        box, inputs = draw.box(), draw.inputs()
        try:
            real = actual(mask, box, inputs, read)
            assert is_sound(by_test(shape.test, box, inputs, read), real), (box, inputs, real)
            if not isinstance(shape, Dense):
                check_ranges(mask, shape, "q", box[:2], inputs, read)
                check_ranges(mask, shape, "kv", box[2:], inputs, read)
        except Undefined:
            continue
    return shape


@pytest.mark.parametrize("part", range(10))
def test_ranges_of_random_masks_hold_every_visible_pair(part: int) -> None:
    for seed in range(share(1500) // 10):
        draw = Draw(50_000 + seed * 10 + part)
        check(draw.mask(3), draw, draw.loader())


class Fragment(Draw):
    """Random masks of the fragment that is solved: affine comparisons with quotients, remainders, choices."""

    def affine(self) -> Expr:
        r = self.random
        q, kv = (
            make(Op.MUL, Q_IDX, r.choice([0, 1, 1, 1, 2, -1])),
            make(Op.MUL, KV_IDX, r.choice([0, -1, -1, -1, 1, -2])),
        )
        return make(Op.ADD, make(Op.ADD, q, kv), self.offset())

    def offset(self) -> Expr:
        r = self.random
        sizes = [param("w"), param("s"), make(Op.MUL, H, 4), B]
        return r.choice([self.number(), self.number(), sizes[0], sizes[1], sizes[2], sizes[3]])

    def term(self) -> Expr:
        r = self.random
        position = r.choice([Q_IDX, KV_IDX, DISTANCE])
        divisor = r.choice([2, 4, 5, 8, param("s")])
        kinds = [
            *[self.affine] * 5,
            lambda: make(Op.ABS, DISTANCE),
            lambda: make(r.choice([Op.MIN, Op.MAX]), self.affine(), self.affine()),
            lambda: make(r.choice([Op.FLOORDIV, Op.MOD]), position, divisor),
            lambda: make(Op.SUB, make(Op.FLOORDIV, Q_IDX, divisor), make(Op.FLOORDIV, KV_IDX, divisor)),
            lambda: make(Op.ABS, make(Op.SUB, make(Op.MOD, Q_IDX, divisor), make(Op.MOD, KV_IDX, divisor))),
            lambda: make(Op.WHERE, make(Op.LT, H, 2), self.affine(), self.affine()),
        ]
        return r.choice(kinds)()

    def bool(self, depth: int) -> Expr:
        r = self.random
        if depth == 0 or r.random() < 0.25:
            order = r.choice([Op.LT, Op.LE, Op.GT, Op.GE, Op.GE, Op.LT, Op.EQ, Op.NE])
            if r.random() < 0.1:
                return make(order, H, self.number())
            return make(order, self.term(), self.offset())
        kinds = [
            *[lambda: make(r.choice([Op.AND, Op.AND, Op.OR]), self.bool(depth - 1), self.bool(depth - 1))] * 5,
            lambda: make(Op.NOT, self.bool(depth - 1)),
            lambda: make(Op.WHERE, make(Op.LT, H, 2), self.bool(depth - 1), self.bool(depth - 1)),
        ]
        return r.choice(kinds)()


@pytest.mark.parametrize("part", range(10))
def test_random_masks_of_the_fragment_are_solved_soundly(part: int) -> None:
    solved = total = 0
    for seed in range(share(5000) // 10):
        draw = Fragment(seed * 10 + part)
        shape = check(draw.mask(3), draw, None, tries=2)
        solved += isinstance(shape, Bands | Dense)
        total += 1
    print(f"{solved} of {total} solved")
    assert solved >= 0.95 * total


@pytest.mark.parametrize("part", range(5))
def test_boolean_combinations_of_linear_atoms_visit_exactly_the_tiles_that_hold_a_pair(part: int) -> None:
    r = random.Random(part)
    skipped = 0
    for _ in range(share(500) // 5):
        largest = r.choice([1, 1, 2, 3, 5, 16])
        mask = _combination(r, r.randrange(1, 9), largest)
        shape = summarize_mask(mask)
        for _ in range(10):
            inputs = {"b": r.randrange(2), "h": r.randrange(4), "w": r.randrange(9), "q_len": LENGTH, "kv_len": LENGTH}
            q, kv, size = r.randrange(LENGTH), r.randrange(LENGTH), r.choice([1, 2, 4, 8])
            box = (q, min(q + size, LENGTH) - 1, kv, min(kv + size, LENGTH) - 1)
            real = actual(mask, box, inputs)
            claimed = by_test(shape.test, box, inputs)
            assert (claimed is Visit.SKIP) == (real is Visit.SKIP), (box, inputs, claimed, real)
            assert is_sound(claimed, real)
            skipped += real is Visit.SKIP
    assert skipped > 0


def _combination(r: random.Random, atoms: int, largest: int) -> Expr:
    """A random Boolean combination of a*q + c*kv + e compared with 0."""
    if atoms == 1:
        a, c = r.randint(-largest, largest), r.randint(-largest, largest)
        e = r.choice([r.randint(-40, 40), param("w"), make(Op.MUL, H, 7), make(Op.SUB, r.randint(0, 30), B)])
        form = make(Op.ADD, make(Op.ADD, make(Op.MUL, Q_IDX, a), make(Op.MUL, KV_IDX, c)), e)
        order = r.choice([Op.LT, Op.LE, Op.GT, Op.GE, Op.GE, Op.LT, Op.EQ, Op.NE])
        return make(order, form, 0)
    split = r.randrange(1, atoms)
    joined = make(
        r.choice([Op.AND, Op.AND, Op.OR]), _combination(r, split, largest), _combination(r, atoms - split, largest)
    )
    return make(Op.NOT, joined) if r.random() < 0.2 else joined

"""Tiles are classified soundly, and the common masks exactly."""

from __future__ import annotations

from typing import Any

import pytest

from attncc.analysis import Interval, TileTest, Visit, classify, tile_test
from attncc.errors import LanguageError
from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, evaluate, load, param
from tests.analysis.masks import LENGTH, Draw, Undefined, actual, is_sound, make
from tests.share import share

BoxEnds = tuple[int, int, int, int]


def by_test(test: TileTest, box: BoxEnds, inputs: dict[str, int], read: Any = None) -> Visit:
    """The class that a tile test gives, its statistics taken over the tile."""
    values: dict[str, Any] = dict(zip(("q_min", "q_max", "kv_min", "kv_max"), box, strict=True)) | inputs
    for each in test.statistics:
        first, last = box[:2] if each.axis == "q" else box[2:]
        name = "q_idx" if each.axis == "q" else "kv_idx"
        found = [evaluate(each.expr, {**inputs, name: i}, read) for i in range(first, last + 1)]
        numbers = [x for x in found if x == x]
        values[f"stat{each.number}_min"] = min(numbers, default=float("nan"))
        values[f"stat{each.number}_max"] = max(numbers, default=float("nan"))
        values[f"stat{each.number}_nan"] = len(numbers) < len(found)
    if not evaluate(test.visit, values, read):
        return Visit.SKIP
    return Visit.FULL if evaluate(test.full, values, read) else Visit.PARTIAL


def by_intervals(mask: Expr, box: BoxEnds, inputs: dict[str, int], read: Any = None) -> Visit:
    return classify(mask, Interval(*box[:2]), Interval(*box[2:]), inputs, load=read)


@pytest.mark.parametrize("part", range(10))
def test_no_random_mask_is_skipped_or_full_where_it_is_not(part: int) -> None:
    decided = tried = 0
    for seed in range(share(4000) // 10):
        draw = Draw(seed * 10 + part)
        mask, read = draw.mask(), draw.loader()
        test = tile_test(mask)
        for _ in range(4):
            box, inputs = draw.box(), draw.inputs()
            try:
                real = actual(mask, box, inputs, read)
                claims = by_intervals(mask, box, inputs, read), by_test(test, box, inputs, read)
            except Undefined:
                continue
            assert all(is_sound(claim, real) for claim in claims), (seed, part, box, inputs, claims, real)
            tried += 1
            decided += claims[1] is real
    assert decided > 0.6 * tried


def test_causal_reads_as_its_definition() -> None:
    test = tile_test(make(Op.GE, Q_IDX, KV_IDX))
    ends = {name: param(name) for name in ("q_min", "q_max", "kv_min", "kv_max")}
    assert test.visit is make(Op.GE, ends["q_max"], ends["kv_min"])
    assert test.full is make(Op.GE, ends["q_min"], ends["kv_max"])


def test_a_parameter_with_a_reserved_name_is_refused() -> None:
    with pytest.raises(LanguageError, match="q_min"):
        tile_test(make(Op.LT, Q_IDX, param("q_min")))


def test_documents_are_skipped_where_their_ranges_do_not_meet() -> None:
    mask = make(Op.EQ, load("doc", Scalar.INDEX, Q_IDX), load("doc", Scalar.INDEX, KV_IDX))
    doc = [i // 8 for i in range(LENGTH)]
    test = tile_test(mask)
    assert {each.axis for each in test.statistics} == {"q", "kv"}
    for q in range(0, LENGTH, 4):
        for kv in range(0, LENGTH, 4):
            box = (q, q + 3, kv, kv + 3)
            read = lambda name, index: doc[index[0]]  # noqa: E731
            assert by_test(test, box, {}, read) is actual(mask, box, {}, read)

"""A closed form that intervals contradict is not used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attncc.analysis import bands
from attncc.analysis.agreement import Ends, check_agreement
from attncc.analysis.bands import Bands, Range, summarize_mask
from attncc.analysis.solver import Solver
from attncc.analysis.tiles import TileTest
from attncc.errors import InternalError
from attncc.ir import FALSE, KV_IDX, Q_IDX, TRUE, Expr, Op, Scalar, conjunction, disjunction, load, param
from tests.analysis.masks import make

DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = make(Op.GE, Q_IDX, KV_IDX)
WINDOW = conjunction(CAUSAL, make(Op.LT, DISTANCE, param("w")))
MASKS = {
    "causal": CAUSAL,
    "window": WINDOW,
    "chunks": make(Op.EQ, make(Op.FLOORDIV, Q_IDX, 16), make(Op.FLOORDIV, KV_IDX, 16)),
    "sinks": conjunction(CAUSAL, disjunction(make(Op.LT, DISTANCE, param("w")), make(Op.LT, KV_IDX, 3))),
}
WRONG: dict[str, Callable[[Range], Range]] = {
    "starts later": lambda r: replace(r, start=make(Op.ADD, r.start, 1)),
    "stops earlier": lambda r: replace(r, stop=make(Op.SUB, r.stop, 1)),
    "is left out": lambda r: replace(r, when=FALSE),
    "is full further back": lambda r: replace(r, full_start=make(Op.SUB, r.full_start, 1)),
    "is full further on": lambda r: replace(r, full_stop=make(Op.ADD, r.full_stop, 1)),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", MASKS)
def test_a_wrong_range_is_refused(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    summarize = bands._guarded
    monkeypatch.setattr(bands, "_guarded", lambda *given: tuple(WRONG[wrong](r) for r in summarize(*given)))
    with pytest.raises(InternalError, match="a tile of this mask is"):
        summarize_mask(MASKS[name])


@pytest.mark.parametrize(("visit", "full"), [(FALSE, FALSE), (TRUE, TRUE), (TRUE, CAUSAL)])
def test_a_wrong_tile_test_is_refused(visit: Expr, full: Expr, monkeypatch: pytest.MonkeyPatch) -> None:
    full = make(Op.GE, param("q_max"), param("kv_min")) if full is CAUSAL else full
    if visit is full is TRUE:  # all tiles full is Dense; full where anything is visible is not
        full = make(Op.GE, param("q_max"), 0)
    monkeypatch.setattr(Solver, "test", lambda *_: TileTest(visit, full))
    with pytest.raises(InternalError, match="report this mask"):
        summarize_mask(WINDOW)


def test_what_agrees_passes_and_what_reads_captures_is_not_judged() -> None:
    shape = summarize_mask(WINDOW)
    assert isinstance(shape, Bands)
    ends: list[Ends] = [(r.start, r.stop, r.full_start, r.full_stop, r.when) for r in shape.kv_ranges]
    others: list[Ends] = [(r.start, r.stop, r.full_start, r.full_stop, r.when) for r in shape.q_ranges]
    check_agreement(WINDOW, (shape.test.visit, shape.test.full), ends, others, ())
    with pytest.raises(InternalError):
        check_agreement(WINDOW, (shape.test.visit, shape.test.full), [], others, ())
    document = make(Op.EQ, load("doc", Scalar.INDEX, Q_IDX), load("doc", Scalar.INDEX, KV_IDX))
    check_agreement(document, (FALSE, TRUE), [], [], ())

"""Right claims are proven, wrong ones refuted with numbers that refute them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc.analysis import certificate
from attncc.analysis.bands import Bands, MaskShape, Range, summarize_mask
from attncc.analysis.certificate import Verdict, prove
from attncc.analysis.solver import Solver
from attncc.analysis.symbolic import KV_MIN, Q_MAX, Q_MIN
from attncc.analysis.systems import count_checked
from attncc.ir import (
    KV_IDX,
    KV_LEN,
    Q_IDX,
    TRUE,
    B,
    Expr,
    H,
    Op,
    Scalar,
    conjunction,
    const,
    disjunction,
    evaluate,
    load,
    param,
)
from tests.analysis.masks import make
from tests.analysis.test_gallery_masks import SPECS

DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = make(Op.GE, Q_IDX, KV_IDX)
WINDOW = conjunction(CAUSAL, make(Op.LT, DISTANCE, param("w")))
DOCUMENTS = make(Op.EQ, load("doc", Scalar.INDEX, B, Q_IDX), load("doc", Scalar.INDEX, B, KV_IDX))
MASKS = {
    "causal": CAUSAL,
    "window": WINDOW,
    "sink": conjunction(CAUSAL, disjunction(make(Op.LT, DISTANCE, param("w")), make(Op.LT, KV_IDX, param("s")))),
    "chunked": make(Op.EQ, make(Op.FLOORDIV, Q_IDX, 64), make(Op.FLOORDIV, KV_IDX, 64)),
    "chunked by a parameter": make(Op.EQ, make(Op.FLOORDIV, Q_IDX, param("w")), make(Op.FLOORDIV, KV_IDX, param("w"))),
    "heads": make(Op.WHERE, make(Op.LT, H, 2), CAUSAL, WINDOW),
    "dilated": conjunction(WINDOW, make(Op.EQ, make(Op.MOD, DISTANCE, 3), 0)),
    "steep": conjunction(make(Op.GE, make(Op.SUB, make(Op.MUL, Q_IDX, 2), make(Op.MUL, KV_IDX, 3)), 5), CAUSAL),
    "documents": DOCUMENTS,
    "causal documents": conjunction(CAUSAL, DOCUMENTS),
    "valid keys": load("valid", Scalar.BOOL, B, KV_IDX),
    "lengths": make(Op.LT, KV_IDX, load("length", Scalar.INDEX, B)),
    "blocks": load("table", Scalar.BOOL, make(Op.FLOORDIV, Q_IDX, 64), make(Op.FLOORDIV, KV_IDX, 64)),
}


@pytest.mark.parametrize("name", MASKS)
def test_every_claim_about_a_mask_is_proven(name: str) -> None:
    found = prove(MASKS[name])
    assert found.is_proven, [(claim.statement, claim.verdict) for claim in found.claims if not claim.is_proven]
    assert found.pairs > 5000


@pytest.mark.parametrize("name", ["causal", "window", "sink", "heads", "steep"])
def test_a_proof_adds_up(name: str) -> None:
    for claim in prove(MASKS[name]).claims:
        assert claim.proof is not None
        for contradiction in claim.proof.contradictions:
            assert contradiction.total < 0
            assert all(share > 0 for share, _ in contradiction.terms)


def wrong(shape: MaskShape, **changes: Expr) -> Bands:
    assert isinstance(shape, Bands)
    first, *rest = shape.kv_ranges
    return replace(shape, kv_ranges=(replace(first, **changes), *rest))


@pytest.mark.parametrize(
    ("mask", "changes"),
    [
        (CAUSAL, {"stop": make(Op.MIN, Q_MAX, KV_LEN)}),
        (CAUSAL, {"start": const(1)}),
        (CAUSAL, {"full_stop": make(Op.MIN, make(Op.ADD, Q_MIN, 2), KV_LEN)}),
        (CAUSAL, {"full_stop": make(Op.MIN, make(Op.ADD, Q_MAX, 1), KV_LEN)}),
        (WINDOW, {"start": make(Op.MAX, make(Op.SUB, make(Op.ADD, Q_MIN, 2), param("w")), 0)}),
        (WINDOW, {"full_start": make(Op.MAX, make(Op.SUB, Q_MAX, param("w")), 0)}),
        (WINDOW, {"when": make(Op.GT, param("w"), 1)}),
        (MASKS["chunked"], {"stop": make(Op.MUL, make(Op.FLOORDIV, Q_MAX, 64), 64)}),
        (MASKS["heads"], {"when": make(Op.LT, H, 1)}),
        (MASKS["dilated"], {"full_start": const(0), "full_stop": KV_LEN}),
    ],
)
def test_wrong_ranges_are_refuted(mask: Expr, changes: dict[str, Expr]) -> None:
    found = prove(mask, wrong(summarize_mask(mask), **changes))
    refuted = [claim for claim in found.claims if claim.verdict is Verdict.REFUTED]
    assert refuted
    for claim in refuted:
        assert claim.witness is not None
        assert evaluate(claim.denial, claim.witness)


@pytest.mark.parametrize("name", ["halo_2d", "context_sharding", "dilated_window"])
def test_nothing_wrong_is_proven_where_no_witness_is_looked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate._Checker, "_witness", lambda *_: None)
    mask = SPECS[name].mask
    shape = summarize_mask(mask)
    assert isinstance(shape, Bands)
    later = [replace(r, start=make(Op.ADD, r.start, 1)) for r in shape.kv_ranges]
    sooner = [replace(r, stop=make(Op.SUB, r.stop, 1)) for r in shape.q_ranges]
    smaller = replace(shape.test, visit=conjunction(shape.test.visit, make(Op.GT, Q_MAX, KV_MIN)))
    larger = replace(shape.test, full=disjunction(shape.test.full, make(Op.GT, Q_MAX, KV_MIN)))
    for changed, part in (
        ({"kv_ranges": tuple(later)}, "keys outside"),
        ({"q_ranges": tuple(sooner)}, "queries outside"),
        ({"test": smaller}, "a tile that is not visited"),
        ({"test": larger}, "every pair of a full tile"),
    ):
        claims = [c for c in prove(mask, replace(shape, **changed)).claims if c.statement.startswith(part)]
        assert [c.verdict for c in claims] == [Verdict.TESTED], part


def test_a_wrong_step_of_an_elimination_is_found() -> None:
    solver = Solver(SPECS["neighborhood_2d"].mask)
    assert solver.terms is not None
    checked = 0
    for term in solver.terms:
        for each in solver.kv_axis.bounds(term):
            steps = count_checked(solver.numbers, each)
            assert steps is not None
            if steps:
                checked += 1
                assert count_checked(solver.numbers, replace(each, form=each.form.shifted(-1))) is None
    assert checked > 5


def test_a_wrong_tile_test_is_refuted() -> None:
    shape = summarize_mask(CAUSAL)
    skipping = replace(shape, test=replace(shape.test, visit=make(Op.GT, Q_MAX, KV_MIN)))
    filling = replace(shape, test=replace(shape.test, full=TRUE))
    assert prove(CAUSAL, skipping).is_refuted
    assert prove(CAUSAL, filling).is_refuted


def test_ranges_that_are_too_wide_are_still_right() -> None:
    whole = Range(const(0), KV_LEN, const(0), const(0))
    shape = summarize_mask(WINDOW)
    assert isinstance(shape, Bands)
    assert prove(WINDOW, replace(shape, kv_ranges=(whole,))).is_proven

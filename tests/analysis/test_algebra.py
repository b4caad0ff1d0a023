"""Masks that are equal are said to be, masks that look alike and differ are told apart by a pair."""

from __future__ import annotations

import random

import pytest

from attncc.analysis.algebra import Standing, equivalent, is_empty, is_everything, subsumes
from attncc.analysis.canonical import _renamed, canonical, canonical_condition, complement
from attncc.ir import (
    FALSE,
    KV_IDX,
    KV_LEN,
    Q_IDX,
    Q_LEN,
    TRUE,
    B,
    Expr,
    H,
    Op,
    Scalar,
    conjunction,
    disjunction,
    evaluate,
    load,
    param,
    postorder,
)
from tests.analysis.masks import Draw, Undefined, make, truths
from tests.analysis.test_bands import Fragment
from tests.share import share

W, S = param("w"), param("s")
DISTANCE = make(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = make(Op.GE, Q_IDX, KV_IDX)
WINDOW = conjunction(CAUSAL, make(Op.LT, DISTANCE, W))
CHUNKED = make(Op.EQ, make(Op.FLOORDIV, Q_IDX, 64), make(Op.FLOORDIV, KV_IDX, 64))
DOCUMENTS = make(Op.EQ, load("doc", Scalar.INDEX, B, Q_IDX), load("doc", Scalar.INDEX, B, KV_IDX))
BOTTOM_RIGHT = make(Op.GE, make(Op.ADD, Q_IDX, make(Op.SUB, KV_LEN, Q_LEN)), KV_IDX)


def window(width: Expr | int) -> Expr:
    return conjunction(CAUSAL, make(Op.LT, DISTANCE, width))


EQUAL = {
    "a renamed parameter": (WINDOW, window(S)),
    "reordered conjuncts": (WINDOW, conjunction(make(Op.LT, DISTANCE, W), CAUSAL)),
    "a conjunct twice": (WINDOW, conjunction(CAUSAL, WINDOW)),
    "sides exchanged": (CAUSAL, make(Op.LE, KV_IDX, Q_IDX)),
    "a difference": (CAUSAL, make(Op.GE, DISTANCE, 0)),
    "not not": (WINDOW, make(Op.NOT, make(Op.NOT, WINDOW))),
    "De Morgan": (WINDOW, make(Op.NOT, make(Op.OR, make(Op.LT, Q_IDX, KV_IDX), make(Op.GE, DISTANCE, W)))),
    "abs as two bounds": (
        make(Op.LT, make(Op.ABS, DISTANCE), W),
        conjunction(make(Op.LT, DISTANCE, W), make(Op.GT, DISTANCE, make(Op.NEG, W))),
    ),
    "abs as two bounds, the other way round": (
        make(Op.GT, W, make(Op.ABS, make(Op.SUB, KV_IDX, Q_IDX))),
        conjunction(make(Op.LT, make(Op.SUB, KV_IDX, Q_IDX), W), make(Op.LT, DISTANCE, W)),
    ),
    "a window and its causal part": (WINDOW, conjunction(CAUSAL, make(Op.LT, make(Op.ABS, DISTANCE), W))),
    "a renamed capture": (
        DOCUMENTS,
        make(Op.EQ, load("segment", Scalar.INDEX, B, Q_IDX), load("segment", Scalar.INDEX, B, KV_IDX)),
    ),
    "two cases of one mask": (CAUSAL, make(Op.WHERE, make(Op.LT, H, 2), CAUSAL, CAUSAL)),
    "both sides of a case": (
        CAUSAL,
        disjunction(conjunction(CAUSAL, make(Op.LT, H, 2)), conjunction(make(Op.GE, H, 2), CAUSAL)),
    ),
    "strict and not": (make(Op.GT, Q_IDX, KV_IDX), make(Op.GE, DISTANCE, 1)),
    "a common factor": (CAUSAL, make(Op.GE, make(Op.MUL, DISTANCE, 6), -5)),
    "what always holds": (CAUSAL, conjunction(CAUSAL, make(Op.GE, KV_IDX, 0), make(Op.LT, Q_IDX, Q_LEN))),
    "a weaker bound": (window(5), conjunction(window(5), make(Op.LT, DISTANCE, 9))),
    "minimum": (
        make(Op.LE, KV_IDX, make(Op.MIN, Q_IDX, W)),
        conjunction(CAUSAL, make(Op.LE, KV_IDX, W)),
    ),
    "documents exchanged": (
        DOCUMENTS,
        make(Op.EQ, load("doc", Scalar.INDEX, B, KV_IDX), load("doc", Scalar.INDEX, B, Q_IDX)),
    ),
    "distributed": (
        conjunction(CAUSAL, disjunction(make(Op.LT, DISTANCE, W), make(Op.LT, KV_IDX, S))),
        disjunction(conjunction(CAUSAL, make(Op.LT, DISTANCE, W)), conjunction(CAUSAL, make(Op.LT, KV_IDX, S))),
    ),
    "exclusive or": (
        make(Op.XOR, CAUSAL, make(Op.LT, KV_IDX, 4)),
        make(Op.NE, CAUSAL, make(Op.LT, KV_IDX, 4)),
    ),
}
DIFFERENT = {
    "W and W + 1 keys": (WINDOW, conjunction(CAUSAL, make(Op.LE, DISTANCE, W))),
    "causal and strictly causal": (CAUSAL, make(Op.GT, Q_IDX, KV_IDX)),
    "causal and its transpose": (CAUSAL, make(Op.LE, Q_IDX, KV_IDX)),
    "top-left and bottom-right": (CAUSAL, BOTTOM_RIGHT),
    "window and two-sided window": (WINDOW, make(Op.LT, make(Op.ABS, DISTANCE), W)),
    "chunks of 64 and 65": (
        CHUNKED,
        make(Op.EQ, make(Op.FLOORDIV, Q_IDX, 65), make(Op.FLOORDIV, KV_IDX, 65)),
    ),
    "quotient and remainder": (
        make(Op.EQ, make(Op.FLOORDIV, Q_IDX, 4), make(Op.FLOORDIV, KV_IDX, 4)),
        make(Op.EQ, make(Op.MOD, Q_IDX, 4), make(Op.MOD, KV_IDX, 4)),
    ),
    "parameters exchanged": (make(Op.LT, KV_IDX, make(Op.SUB, W, S)), make(Op.LT, KV_IDX, make(Op.SUB, S, W))),
    "and for or": (
        conjunction(CAUSAL, make(Op.LT, KV_IDX, 4)),
        disjunction(CAUSAL, make(Op.LT, KV_IDX, 4)),
    ),
    "another head": (make(Op.LT, H, 2), make(Op.LE, H, 2)),
    "a head and a batch": (make(Op.LT, H, 1), make(Op.LT, B, 1)),
    "dilation 2 and 3": (make(Op.EQ, make(Op.MOD, DISTANCE, 2), 0), make(Op.EQ, make(Op.MOD, DISTANCE, 3), 0)),
    "dilation from 0 and from 1": (
        make(Op.EQ, make(Op.MOD, DISTANCE, 2), 0),
        make(Op.EQ, make(Op.MOD, DISTANCE, 2), 1),
    ),
    "coefficients": (
        make(Op.GE, make(Op.MUL, Q_IDX, 2), make(Op.MUL, KV_IDX, 3)),
        make(Op.GE, make(Op.MUL, Q_IDX, 3), make(Op.MUL, KV_IDX, 2)),
    ),
    "sink of w and of s": (
        disjunction(window(4), make(Op.LT, KV_IDX, W)),
        disjunction(window(4), make(Op.LT, KV_IDX, S)),
    ),
    "rows and columns": (make(Op.LT, Q_IDX, 3), make(Op.LT, KV_IDX, 3)),
    "lengths": (make(Op.LT, Q_IDX, make(Op.SUB, KV_LEN, 1)), make(Op.LT, Q_IDX, make(Op.SUB, Q_LEN, 1))),
    "nearly everything": (TRUE, make(Op.NE, DISTANCE, 5)),
    "documents and causal documents": (DOCUMENTS, conjunction(DOCUMENTS, CAUSAL)),
    "two captures": (
        DOCUMENTS,
        make(Op.EQ, load("doc", Scalar.INDEX, B, Q_IDX), load("other", Scalar.INDEX, B, KV_IDX)),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_masks_share_a_digest(name: str) -> None:
    first, second = (canonical(mask) for mask in EQUAL[name])
    assert first.digest == second.digest
    assert first.condition is second.condition


@pytest.mark.parametrize("name", DIFFERENT)
def test_masks_that_differ_are_told_apart_by_a_pair(name: str) -> None:
    first, second = DIFFERENT[name]
    found = equivalent(first, second)
    assert found.standing is Standing.REFUTED
    assert found.witness is not None
    if found.seed is None:
        assert evaluate(first, found.witness) != evaluate(second, found.witness)
    if name not in ("parameters exchanged", "sink of w and of s"):  # these are equal but for their names
        assert canonical(first).digest != canonical(second).digest


def test_an_equality_beyond_the_canonical_form_is_proven() -> None:
    chunk = make(Op.MUL, make(Op.FLOORDIV, Q_IDX, 64), 64)
    spelled = conjunction(make(Op.GE, KV_IDX, chunk), make(Op.LT, KV_IDX, make(Op.ADD, chunk, 64)))
    assert equivalent(CHUNKED, spelled).standing is Standing.PROVEN


def test_a_window_is_part_of_causal_and_not_the_other_way_round() -> None:
    assert subsumes(CAUSAL, WINDOW).standing is Standing.PROVEN
    assert subsumes(WINDOW, CAUSAL).standing is Standing.REFUTED


def test_a_mask_without_a_pair_is_proven_empty() -> None:
    ahead = conjunction(CAUSAL, make(Op.GT, KV_IDX, make(Op.ADD, Q_IDX, 3)))
    assert is_empty(ahead).standing is Standing.PROVEN
    assert canonical_condition(ahead) is FALSE
    visible = is_empty(WINDOW)
    assert visible.witness is not None
    assert evaluate(WINDOW, visible.witness)


def test_everything_is_recognised() -> None:
    assert is_everything(disjunction(CAUSAL, make(Op.LT, Q_IDX, KV_IDX))).standing is Standing.PROVEN
    assert is_everything(CAUSAL).standing is Standing.REFUTED


@pytest.mark.parametrize("kind", [Draw, Fragment])
def test_canonical_conditions_mean_the_mask_and_complements_the_rest(kind: type[Draw]) -> None:
    for seed in range(share(1500)):
        draw = kind(90_000 + seed)
        mask, read = draw.mask(3), draw.loader()
        condition, hidden = canonical_condition(mask), complement(mask)
        for _ in range(3):
            box, inputs = draw.box(), draw.inputs()
            try:
                real = list(truths(mask, box, inputs, read))
                assert list(truths(condition, box, inputs, read)) == real, seed
                assert list(truths(hidden, box, inputs, read)) == [not x for x in real], seed
            except Undefined:
                continue


def test_canonical_forms_do_not_change_when_made_again() -> None:
    for seed in range(share(1000)):
        condition = canonical_condition(Fragment(seed).mask(3))
        assert canonical(condition).digest == canonical(canonical(condition).condition).digest, seed


@pytest.mark.parametrize("kind", [Draw, Fragment])
def test_renamed_parameters_and_captures_keep_the_digest(kind: type[Draw]) -> None:
    for seed in range(share(1000)):
        mask, r = kind(seed).mask(3), random.Random(seed)
        used = [sorted({str(e.value) for e in postorder(mask) if e.op is op}) for op in (Op.PARAM, Op.LOAD)]
        names = [
            {name: f"{letter}{r.randrange(10**6)}" for name in each} for letter, each in zip("nt", used, strict=True)
        ]
        assert canonical(mask).digest == canonical(_renamed(mask, *names)).digest, seed

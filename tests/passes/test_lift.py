"""Lifting: what a -inf in the score hides goes into the mask, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch

from attncc.ir import (
    FALSE,
    KV_IDX,
    NEG_INF,
    Q_IDX,
    SCORE,
    TRUE,
    AttentionSpec,
    Capture,
    Expr,
    H,
    Op,
    Scalar,
    apply,
    conjunction,
    const,
    load,
    postorder,
)
from attncc.ir.verify import verify
from attncc.passes import lift
from attncc.reference import reference, reference_scores
from tests.share import SEED, share
from tests.strategies import Outcome, Problem, measure, random_problem

CAUSAL = apply(Op.GE, Q_IDX, KV_IDX)
NEAR = apply(Op.LT, apply(Op.SUB, Q_IDX, KV_IDX), const(7))
BIAS = load("bias", Scalar.FLOAT, H)
CAUSAL_SCORE = apply(Op.WHERE, CAUSAL, SCORE, NEG_INF)
POSITIVE = apply(Op.GT, SCORE, const(0.0))


def spec_of(score: Expr, mask: Expr = TRUE) -> AttentionSpec:
    return AttentionSpec(score=score, mask=mask, captures=(Capture("bias", Scalar.FLOAT, ("heads",)),))


LIFTED = {
    "chosen": (CAUSAL_SCORE, CAUSAL, SCORE),
    "not chosen": (apply(Op.WHERE, CAUSAL, NEG_INF, SCORE), apply(Op.LT, Q_IDX, KV_IDX), SCORE),
    "nested": (apply(Op.WHERE, NEAR, CAUSAL_SCORE, NEG_INF), None, SCORE),
    "below a sum": (apply(Op.ADD, CAUSAL_SCORE, BIAS), CAUSAL, apply(Op.ADD, SCORE, BIAS)),
    "added": (
        apply(Op.ADD, SCORE, apply(Op.WHERE, CAUSAL, const(0.0), NEG_INF)),
        CAUSAL,
        apply(Op.ADD, SCORE, const(0.0)),
    ),
    "subtracted from": (apply(Op.SUB, CAUSAL_SCORE, BIAS), CAUSAL, apply(Op.SUB, SCORE, BIAS)),
    "scaled": (apply(Op.MUL, CAUSAL_SCORE, const(0.5)), CAUSAL, apply(Op.MUL, SCORE, const(0.5))),
    "in a minimum": (apply(Op.MIN, CAUSAL_SCORE, BIAS), CAUSAL, apply(Op.MIN, SCORE, BIAS)),
    "composed": (
        apply(Op.ADD, apply(Op.WHERE, NEAR, apply(Op.MUL, CAUSAL_SCORE, const(3.0)), NEG_INF), BIAS),
        None,
        apply(Op.ADD, apply(Op.MUL, SCORE, const(3.0)), BIAS),
    ),
    "everywhere": (NEG_INF, FALSE, const(0.0)),
    "with the mask": (apply(Op.WHERE, NEAR, SCORE, NEG_INF), None, SCORE),
}


@pytest.mark.parametrize("case", LIFTED)
def test_what_is_hidden_moves_into_the_mask(case: str):
    score, mask, rest = LIFTED[case]
    spec = spec_of(score, CAUSAL if case == "with the mask" else TRUE)
    lifted = lift(spec)
    verify(lifted)
    assert lifted.score is rest
    assert NEG_INF not in postorder(lifted.score)
    if mask is not None:
        assert lifted.mask is mask
    else:
        assert {CAUSAL, NEAR} <= set(postorder(lifted.mask))


LEFT = {
    "a finite constant": apply(Op.WHERE, CAUSAL, SCORE, const(-1e9)),
    "a function of it": apply(Op.TANH, CAUSAL_SCORE),
    "a negative factor": apply(Op.MUL, CAUSAL_SCORE, const(-1.0)),
    "a factor of unknown sign": apply(Op.MUL, CAUSAL_SCORE, BIAS),
    "the larger of two": apply(Op.MAX, CAUSAL_SCORE, BIAS),
    "subtracted": apply(Op.SUB, SCORE, CAUSAL_SCORE),
    "+inf": apply(Op.WHERE, CAUSAL, SCORE, const(math.inf)),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_minus_infinity_for_certain_stays(case: str):
    spec = spec_of(LEFT[case])
    assert lift(spec) is spec


def test_both_operands_of_a_maximum_hide():
    spec = spec_of(apply(Op.MAX, CAUSAL_SCORE, apply(Op.WHERE, NEAR, BIAS, NEG_INF)))
    lifted = lift(spec)
    assert lifted.score is spec.score
    assert {CAUSAL, NEAR} <= set(postorder(lifted.mask))


def test_conditions_that_read_the_score_stay_in_it():
    lifted = lift(spec_of(apply(Op.ADD, apply(Op.WHERE, POSITIVE, CAUSAL_SCORE, NEG_INF), BIAS)))
    verify(lifted)
    assert SCORE not in postorder(lifted.mask)
    assert lifted.score.op is Op.WHERE
    assert NEG_INF in lifted.score.args


def test_a_shared_score_stays_whole_where_a_function_reads_it():
    lifted = lift(spec_of(apply(Op.ADD, CAUSAL_SCORE, apply(Op.TANH, CAUSAL_SCORE))))
    assert lifted.mask is CAUSAL
    assert lifted.score is apply(Op.ADD, SCORE, apply(Op.TANH, CAUSAL_SCORE))


def test_random_variants_mean_the_same_when_lifted():
    """Output, lse and gradients; half of the time with NaN and infinities in the captured tensors."""
    lifted = 0
    for seed in range(share(2000)):
        problem = random_problem(SEED + seed, (1, 5, 16, 33))
        spec = lift(problem.spec)
        verify(spec)
        if spec is not problem.spec:
            lifted += 1
            plain, moved = run(problem, problem.spec, seed), run(problem, spec, seed)
            for a, b in zip((plain.out, plain.lse, *plain.grads), (moved.out, moved.lse, *moved.grads), strict=True):
                zero = torch.zeros(())
                a, b = (zero if t is None else t for t in (a, b))
                a, b = torch.broadcast_tensors(a, b)
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True, check_dtype=False)
    assert lifted > share(2000) // 20


def run(problem: Problem, spec: AttentionSpec, seed: int) -> Outcome:
    values = problem.values()
    if seed % 2:
        numbers = torch.Generator().manual_seed(seed)
        for capture in (t for t in values.captures if t.is_floating_point()):
            chances = torch.rand(capture.shape, generator=numbers)
            capture[chances < 0.1] = math.nan
            capture[(chances > 0.9) & (chances < 0.95)] = math.inf
            capture[chances > 0.95] = -math.inf
    for leaf in values.leaves:
        leaf.requires_grad_()

    def call(q, k, v, captures):
        return reference(spec, q, k, v, captures, problem.named_parameters, return_lse=True)

    return measure(call, values)


def test_a_hidden_pair_is_hidden_whatever_is_added_to_it():
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    bias = torch.tensor([math.nan, 1.0])
    spec = spec_of(apply(Op.ADD, CAUSAL_SCORE, apply(Op.WHERE, conjunction(CAUSAL), const(0.0), BIAS)))
    for each in (spec, lift(spec)):
        scores = reference_scores(each, q, k, (bias,))
        above = torch.ones(3, 3, dtype=torch.bool).triu(1)
        assert (scores[..., above] == -math.inf).all()
        assert scores[..., ~above].isfinite().all()

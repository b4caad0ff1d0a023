"""Constant factors of derivatives are gathered, and what the user wrote is not touched."""

from __future__ import annotations

import pytest

from attncc.frontend import parse
from attncc.ir import SCORE, Op, postorder, print_expr
from attncc.passes import derive, simplify
from attncc.passes.gather import gather


def gathered(body: str) -> str:
    score = simplify(parse(f"attn 1\nattention a:\n  score = {body}\n").score)
    return print_expr(gather(simplify(derive(score, SCORE)), frozenset(postorder(score))))


@pytest.mark.parametrize(
    ("body", "function", "wanted"),
    [
        ("30.0 * tanh(score / 30.0)", "tanh(score / 30.0)", "1.0 - saturated * saturated"),
        ("49.0 * tanh(score / 49.0)", "tanh(score / 49.0)", "1.0 - saturated * saturated"),  # 49 * (1 / 49) is not 1
        ("-30.0 * tanh(score * 2.0 / 30.0)", "tanh(score * 2.0 / 30.0)", "(1.0 - saturated * saturated) * -2.0"),
        ("tanh(score / 3.0)", "tanh(score / 3.0)", "(1.0 - saturated * saturated) / 3.0"),
    ],
)
def test_factors_of_the_chain_rule_become_one(body, function, wanted):
    assert gathered(body) == f"saturated = {function}\n{wanted}"


def test_a_product_that_the_user_wrote_is_kept_and_multiplied():
    assert gathered("exp(score / 2.0 / 4.0) * 16.0") == "exp(score * 0.5 * 0.25) * 16.0 * 0.125"


@pytest.mark.parametrize("body", ["1e30 * tanh(score / 1e30)", "exp(score * 1e-30)"])
def test_factors_that_might_overflow_stay(body):
    score = simplify(parse(f"attn 1\nattention a:\n  score = {body}\n").score)
    change = simplify(derive(score, SCORE))
    assert gather(change, frozenset(postorder(score))) is change


def test_every_value_of_the_user_is_still_shared():
    score = simplify(parse("attn 1\nattention a:\n  score = 30.0 * tanh(score * 2.0 / 30.0)\n").score)
    found = gather(simplify(derive(score, SCORE)), frozenset(postorder(score)))
    assert {e for e in postorder(found) if e.op is Op.TANH} == {e for e in postorder(score) if e.op is Op.TANH}

"""deterministic=True: gradients with the same bits in every run; by default one pass adds to the gradient of q."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

import attncc
from attncc.runtime import triton_version
from tests.gluon.launch import simulated

SLOPES = torch.linspace(0.1, 0.4, 2)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def alibi(score, b, h, q_idx, kv_idx):
    return score - SLOPES[h] * (q_idx - kv_idx)


def gradients(deterministic, *, seed=0, wanted=(True, True, True), score=None):
    random = torch.Generator().manual_seed(1)
    made = [torch.randn(1, 2, 200, 64, generator=random).bfloat16() for _ in range(3)]
    q, k, v = (t.requires_grad_(want) for t, want in zip(made, wanted, strict=True))
    with simulated(seed=seed) as launches, mock.patch.object(triton_version, "interprets", return_value=True):
        out = attncc.attention(q, k, v, score, causal, backend="triton", deterministic=deterministic)
        found = torch.autograd.grad(out.float().square().sum(), [t for t in (q, k, v) if t.requires_grad])
    return found, [launch.kernel.entry for launch in launches if "backward" in launch.kernel.entry]


PAIR = ["backward_q", "backward_kv"]


@pytest.mark.parametrize(
    ("asked", "torchs", "passes"),
    [(None, False, ["backward"]), (True, False, PAIR), (None, True, PAIR), (False, True, ["backward"])],
)
def test_two_passes_run_where_the_same_bits_are_asked_for(asked, torchs, passes):
    torch.use_deterministic_algorithms(torchs)
    try:
        found, ran = gradients(asked)
    finally:
        torch.use_deterministic_algorithms(False)
    assert ran == passes
    exact, _ = gradients(True)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)


def test_two_passes_give_the_same_bits_in_any_order_of_programs():
    first, second = gradients(True, seed=1)[0], gradients(True, seed=2)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_passes_that_nobody_asked_for_do_not_run():
    assert gradients(False, wanted=(True, False, False))[1] == ["backward_q"]
    assert gradients(False, wanted=(False, True, True))[1] == ["backward_kv"]


def test_a_gradient_that_queries_own_takes_two_passes():
    bias = torch.zeros(200, requires_grad=True)

    def by_query(score, b, h, q_idx, kv_idx):
        return score + bias[q_idx]

    def by_head(score, b, h, q_idx, kv_idx):
        return score + bias[h]

    assert gradients(False, score=by_query)[1] == PAIR
    assert gradients(False, score=by_head)[1] == ["backward"]


def test_explain_says_which_form_runs():
    q = torch.randn(1, 2, 200, 64).bfloat16().requires_grad_()
    variant = attncc.compile(alibi, causal)
    with simulated():
        plain = str(variant.explain(q, q, q, backend="triton"))
        exact = str(variant.explain(q, q, q, backend="triton", deterministic=True))
    assert "to which programs add in any order" in " ".join(plain.split())
    assert "yes: every result is summed in one fixed order" in exact

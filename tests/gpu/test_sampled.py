"""The check of sampled rows and columns finds nothing where attention is right, and what is wrong where it is not."""

from __future__ import annotations

import math

import pytest
import torch

from tests.gpu.sampled import faults, make
from tests.interpreter import interpreted

FACTORS = (2.0, 3.0, 3.0, 3.0)
HEADS, LENGTH, DIM, WINDOW = 3, 60, 16, 9


def attention(q, k, v, window=WINDOW):
    """Dense attention under a causal window, in float64."""
    q_idx, kv_idx = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    seen = (q_idx >= kv_idx) & (q_idx - kv_idx < window)
    scores = (q.double() @ k.double().mT / math.sqrt(DIM)).masked_fill(~seen, -math.inf)
    return (torch.softmax(scores, -1) @ v.double()).to(q.dtype)


@pytest.mark.parametrize("tokens_first", [False, True])
def test_right_attention_has_no_faults(tokens_first):
    problem = make(HEADS, LENGTH, DIM, WINDOW, torch.bfloat16, "cpu", tokens_first=tokens_first)
    assert not faults(problem, attention, FACTORS, 24)


def test_a_window_that_is_off_by_one_is_found():
    problem = make(HEADS, LENGTH, DIM, WINDOW, torch.bfloat16, "cpu", tokens_first=False)
    wrong = faults(problem, lambda *own: attention(*own, window=WINDOW + 1), FACTORS, 24)
    assert {line.split()[0] for line in wrong} == {"out", "dq", "dk", "dv"}


@interpreted
@pytest.mark.parametrize("tokens_first", [False, True])
def test_kernels_have_no_faults(tokens_first):
    from tests.gpu.test_triton_large import attend

    problem = make(HEADS, LENGTH, DIM, WINDOW, torch.float16, "cpu", tokens_first=tokens_first)
    assert not faults(problem, attend(WINDOW, block_m=16, block_n=16), FACTORS, 8)

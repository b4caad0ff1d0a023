"""Traced values keep what a user wrote in the order in which it was written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attncc.frontend.trace import trace
from attncc.ir import print_spec

HALF = torch.tensor(0.5)


def shown(function) -> str:
    """The last line of a traced definition."""
    return print_spec(trace(function)).splitlines()[-1].strip()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda score, b, h, q, k: 2.0 * score, "score = 2.0 * score"),
        (lambda score, b, h, q, k: score * 2.0, "score = score * 2.0"),
        (lambda score, b, h, q, k: 1.0 + score, "score = 1.0 + score"),
        (lambda score, b, h, q, k: 1 - score, "score = 1.0 - score"),
        (lambda score, b, h, q, k: HALF * score, "score = HALF * score"),
        (lambda score, b, h, q, k: score * HALF, "score = score * HALF"),
    ],
)
def test_operands_stay_in_their_order(function, expected) -> None:
    assert shown(function) == expected


def test_a_number_and_a_traced_value_stay_in_their_order() -> None:
    offset = 3

    def shifted(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + offset * (offset + q_idx)

    assert shown(shifted) == "score = score + offset * (offset + q_idx)"


def test_parameters_come_in_the_order_of_their_first_use() -> None:
    width, block, apart = 5, 6, 7

    def banded(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx - kv_idx < width * block) & (kv_idx > apart - block)

    assert [parameter.name for parameter in trace(banded).parameters] == ["width", "block", "apart"]


def test_a_trace_that_is_remembered_shows_the_parameters_of_this_moment() -> None:
    def banded(width: int):
        return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < width

    assert [trace(banded(width)).parameters[0].value for width in (3, 5, 3)] == [3, 5, 3]

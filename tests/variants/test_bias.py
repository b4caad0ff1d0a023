"""The numbers that the gallery's biases prescribe are those of the papers."""

from __future__ import annotations

import math

import pytest
import torch

from attncc.variants.bias import alibi_slopes, sandwich_waves, t5_bias


def test_alibi_slopes_of_a_power_of_two_are_a_geometric_sequence():
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_alibi_slopes_of_other_counts_take_every_second_slope_of_twice_the_heads():
    assert alibi_slopes(12).tolist() == pytest.approx(
        [2.0**-n for n in range(1, 9)] + [2.0**-n for n in (0.5, 1.5, 2.5, 3.5)]
    )


def test_sandwich_waves_are_sums_of_cosines():
    expected = [sum(math.cos(n / 10000 ** (2 * t / 16)) for t in range(1, 9)) for n in range(30)]
    torch.testing.assert_close(sandwich_waves(30, dimension=16), torch.tensor(expected))


def test_t5_buckets_are_those_of_the_common_implementation_at_every_distance():
    """The formula as transformers writes it, in float32."""
    relative = torch.arange(-300, 301)
    away = relative.abs()
    large = 8 + (torch.log(away.clamp(min=1).float() / 8) / math.log(128 / 8) * 8).to(torch.long)
    expected = (relative > 0).long() * 16 + torch.where(away < 8, away, large.clamp(max=15))
    numbers = t5_bias(torch.arange(32.0)[None])
    for dtype in (torch.int32, torch.int64):
        zero = torch.zeros((), dtype=dtype)
        found = numbers(torch.zeros(601), 0, zero, zero, relative.to(dtype))
        assert torch.equal(found.long(), expected)

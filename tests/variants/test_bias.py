"""The numbers that the gallery's biases prescribe are those of the papers."""

from __future__ import annotations

import math

import pytest
import torch

from attncc.variants.bias import alibi_slopes, sandwich_waves


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

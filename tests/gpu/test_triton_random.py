"""Random variants over the whole language on a GPU, forward and all gradients, against the reference."""

from __future__ import annotations

import pytest

import attncc.api  # noqa: F401  # the compiler reaches the operators through it
from tests.runtime.triton.test_random_variants import COUNT, INT_POWERS, LENGTHS, TOLERANCE, outcome
from tests.strategies import random_problem

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("seed", [seed for seed in range(COUNT) if seed not in INT_POWERS])
def test_a_random_variant_agrees_with_the_reference(seed, record_property):
    error = outcome(random_problem(seed, LENGTHS), "cuda")
    record_property("set aside", (int(error is None), 1))
    assert error is None or error <= TOLERANCE

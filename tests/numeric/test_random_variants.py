"""Random variants over the whole language: the torch back end agrees with the reference, forward and all gradients."""

from __future__ import annotations

import pytest
import torch

from attncc.errors import InputError
from tests.numeric.kernels import measure_kernel, worst
from tests.share import share
from tests.strategies import Problem, has_jumps, is_settled, measure_reference, random_problem

COUNT = 2_000
PARTS = 20
#: Of the variants at most this share may be set aside, because the reference itself is infinite or unstable there.
MOST_SET_ASIDE = 0.1
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-5}
#: Tiles small enough that short sequences have several, beside the ones that the schedule chooses.
TILES = ((0, 0), (16, 8))


def seeds(part: int) -> range:
    """The seeds of one part of this run's share."""
    each = -(-share(COUNT) // PARTS)
    return range(part * each, (part + 1) * each)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_variants_agree_with_the_reference(part: int, record_property):
    aside, wrong = 0, []
    for seed in seeds(part):
        problem = random_problem(seed)
        try:
            settled = is_settled(problem)
        except InputError as error:
            wrong += [] if refusal(problem) == error.message else [f"seed {seed}: {error.message!r} is not raised"]
            continue
        if not settled:
            aside += 1
            continue
        wrong += [f"seed {seed}: {fault}" for fault in faults(problem)]
    record_property("set aside", (aside, len(seeds(part))))
    assert not wrong, "\n".join(wrong)
    assert aside <= max(2, MOST_SET_ASIDE * len(seeds(part)))


#: Seeds that once found a fault: scores of -1e9 whose lse loses their differences (6, 109, 376, 537, 1347, 1689), a
#: derivative that is NaN where every pair is hidden (35), a read at an index of the score (250), a lost import (1903),
#: the size of a capture that tiles are told apart by, without a read of it (971).
FAULTS = (6, 35, 109, 250, 376, 537, 971, 1347, 1689, 1903)


@pytest.mark.parametrize("seed", FAULTS)
def test_faults_stay_mended(seed: int):
    assert faults(random_problem(seed)) == []


def faults(problem: Problem) -> list[str]:
    """Where the torch back end differs from the reference by more than it may."""
    found = []
    for dtype in (torch.float64, *((torch.float32,) if is_smooth(problem) else ())):
        wanted = measure_reference(problem, dtype)
        for tile_q, tile_kv in TILES:
            error = worst(measure_kernel(problem, dtype, tile_q=tile_q, tile_kv=tile_kv), wanted)
            if not error <= TOLERANCE[dtype]:
                found.append(f"{dtype}, tiles {tile_q} x {tile_kv}: differs by {error:.1e}")
    return found


def is_smooth(problem: Problem) -> bool:
    """Whether float32 may be compared: nothing jumps when a float moves a little."""
    return not has_jumps(problem.spec.score) and not has_jumps(problem.spec.mask)


def refusal(problem: Problem) -> str | None:
    """The message with which the torch back end refuses a problem."""
    try:
        measure_kernel(problem)
    except InputError as error:
        return error.message
    return None

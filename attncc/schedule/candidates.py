"""Schedules worth measuring for a pass: those of the tables, and around them every choice that a GPU could hold."""

from __future__ import annotations

from itertools import product
from typing import Final

from attncc.schedule.target import Problem, Target
from attncc.schedule.triton import DEFAULT_LIMIT, SHARED_LIMITS, TritonSchedule, shared_bytes

TILES_Q: Final = (16, 32, 64, 128)
TILES_KV: Final = (16, 32, 64, 128)
WARPS: Final = (4, 8)
STAGES: Final = (1, 2, 3, 4)
#: Scores of a tile that a warp holds in registers, beside everything else: more than this spill, fewer idle.
MOST_SCORES: Final = 128 * 64 // 4
FEWEST_SCORES: Final = 128


def candidates(name: str, problem: Problem, target: Target) -> tuple[TritonSchedule, ...]:
    """Every plain Triton schedule of a pass whose tiles fit into shared memory and suit its warps.

    Those of Gluon are all in its own tables."""
    limit = SHARED_LIMITS.get(target.arch or "", DEFAULT_LIMIT) * 1024
    found = []
    for tile_q, tile_kv, warps, stages in product(TILES_Q, TILES_KV, WARPS, STAGES):
        row = (tile_q, tile_kv, warps, stages)
        scores = tile_q * tile_kv // warps
        if FEWEST_SCORES <= scores <= MOST_SCORES and shared_bytes(row, problem, name) <= limit:
            found.append(TritonSchedule(*row, ("one of the choices that `attncc tune` measures",)))
    return tuple(found)

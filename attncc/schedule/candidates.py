"""Schedules worth measuring for a pass: those of the tables, and around them every choice that a GPU could hold."""

from __future__ import annotations

from itertools import product
from typing import Final

from attncc.schedule.target import Problem, Target
from attncc.schedule.triton import DEFAULT_LIMIT, SHARED_LIMITS, TritonSchedule, head_tile, shared_bytes

TILES_Q: Final = (16, 32, 64, 128)
TILES_KV: Final = (16, 32, 64, 128)
WARPS: Final = (4, 8)
STAGES: Final = (1, 2, 3, 4)
#: Scores of a tile that a warp holds in registers, beside everything else: more than this spill, fewer idle.
MOST_SCORES: Final = 128 * 64 // 4
FEWEST_SCORES: Final = 128
#: The same for float32 in full precision, whose products NVIDIA's GPUs run on the ordinary units.
FEWEST_WIDE_SCORES: Final = 32
#: Multiplications of such a product that Triton writes out for each thread: at 1024 most kernels spill, and take 2 to
#: 7 s to compile (causal, D 64 and 128, compiled for sm_90, 2026-11-24).
MOST_PRODUCTS: Final = 1024
WARP: Final = 32


def candidates(name: str, problem: Problem, target: Target) -> tuple[TritonSchedule, ...]:
    """Every plain Triton schedule of a pass whose tiles fit into shared memory and suit its warps.

    Those of Gluon are all in its own tables."""
    limit = SHARED_LIMITS.get(target.arch or "", DEFAULT_LIMIT) * 1024
    fewest, most = _scores(problem, target)
    found = []
    for tile_q, tile_kv, warps, stages in product(TILES_Q, TILES_KV, WARPS, STAGES):
        row = (tile_q, tile_kv, warps, stages)
        scores = tile_q * tile_kv // warps
        if fewest <= scores <= most and shared_bytes(row, problem, name) <= limit:
            found.append(TritonSchedule(*row, ("one of the choices that `attncc tune` measures",)))
    return tuple(found)


def _scores(problem: Problem, target: Target) -> tuple[int, int]:
    """The fewest and the most scores of a tile that are worth measuring for each warp."""
    if problem.dtype != "float32" or problem.tf32 or not (target.arch or "").startswith("sm_"):
        return FEWEST_SCORES, MOST_SCORES
    width = max(head_tile(problem.head_dim), head_tile(problem.value_dim))
    return FEWEST_WIDE_SCORES, min(MOST_SCORES, MOST_PRODUCTS * WARP // width)

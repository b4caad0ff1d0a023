"""Choices with their reasons: tile sizes and how the work is cut.

`choose_schedule` is pure: the same spec, problem and target give the same schedule. Every number that was measured
names its measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attncc.analysis.tiles import TileTest
from attncc.errors import InputError
from attncc.ir import TRUE, Op, postorder
from attncc.schedule.target import Problem, Target

#: Score elements that one step holds at a time. AMD EPYC, 2 threads, 1 MiB of L2 a core, B1 H8 S4096 D64 causal,
#: 2026-11: 8 heads x 256 x 256 to 8 x 256 x 512 ran alike, 4 times as many lost 10 %, one head at a time 25 %.
SCORES_PER_STEP: Final = 1 << 20
#: Tiles of the torch back end. Neighbouring tiles run as one matrix product, so that fine ones cost little: on the same
#: machine 128 x 64 lost 8 % to 256 x 128 for a causal mask, and won 40 % for a window of 256.
WIDE_TILE: Final = (256, 128)
NARROW_TILE: Final = (128, 64)
MAX_TILE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a kernel runs: a tile is `tile_q` x `tile_kv`; a step takes at most `scores_per_step` scores."""

    tile_q: int
    tile_kv: int
    scores_per_step: int
    reasons: tuple[str, ...] = ()


def choose_schedule(test: TileTest, problem: Problem, target: Target) -> Schedule:
    """The schedule of the torch back end. Raises InputError for tile sizes that cannot be."""
    default_q, default_kv = NARROW_TILE if is_banded(test) else WIDE_TILE
    tile_q = _tile("block_m", problem.tile_q, default_q)
    tile_kv = _tile("block_n", problem.tile_kv, default_kv)
    reasons = [
        _reason("tile_q", tile_q, problem.tile_q, _why(test)),
        _reason("tile_kv", tile_kv, problem.tile_kv, "visited neighbours run as one matrix product"),
        f"scores_per_step = {SCORES_PER_STEP}: heads and neighbouring tiles run as one product up to this size",
    ]
    return Schedule(tile_q, tile_kv, SCORES_PER_STEP, tuple(reasons))


def _tile(name: str, asked: int | None, default: int) -> int:
    if asked is None:
        return default
    if not 1 <= asked <= MAX_TILE:
        raise InputError(f"{name} is {asked}, which it cannot be", hint=f"{name} lies between 1 and {MAX_TILE}")
    return asked


def _reason(name: str, size: int, asked: int | None, why: str) -> str:
    return f"{name} = {size}: {'asked for' if asked is not None else why}"


def is_banded(test: TileTest) -> bool:
    """Whether visible keys may be few: the first query or a captured value of a tile takes part in skipping it."""
    names = {str(expr.value) for expr in postorder(test.visit) if expr.op is Op.PARAM}
    return "q_min" in names or any(name.startswith("stat") for name in names)


def _why(test: TileTest) -> str:
    if test.visit is TRUE:
        return "no tile can be skipped, so that long matrix products pay"
    return "low tiles follow the visible keys" if is_banded(test) else "long matrix products, with little to skip"

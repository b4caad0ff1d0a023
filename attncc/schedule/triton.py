"""How Triton kernels run: tiles, warps and pipeline stages, for a target, dtype, head size and pass.

`ROWS` holds the measured choices, best first. A choice that cannot run is never made: what a kernel keeps in shared
memory is estimated here, and whoever builds a kernel checks the estimate against what the compiler reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from attncc.errors import InputError
from attncc.schedule.target import Problem, Target

Row = tuple[int, int, int, int]  # tile_q, tile_kv, num_warps, num_stages


@dataclass(frozen=True, slots=True)
class TritonSchedule:
    """How one kernel runs on a GPU; `reasons` say why."""

    tile_q: int
    tile_kv: int
    num_warps: int
    num_stages: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedules:
    """How each pass of a variant runs."""

    forward: TritonSchedule
    backward_q: TritonSchedule
    backward_kv: TritonSchedule


MEASURED: Final = "H100, bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23"
#: For 16-bit inputs, by head size held in the kernel (a power of two).
ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    "forward": {
        64: ((128, 64, 8, 4), (128, 64, 4, 3), (64, 64, 4, 2)),
        128: ((128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 1)),
        256: ((128, 64, 8, 2), (64, 32, 4, 3), (64, 32, 4, 2), (64, 32, 4, 1)),
    },
    "backward_q": {
        64: ((128, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 1)),
        128: ((128, 32, 8, 3), (64, 32, 4, 2), (64, 32, 4, 1)),
        256: ((64, 32, 8, 2), (64, 32, 8, 1), (32, 32, 4, 1)),
    },
    "backward_kv": {
        64: ((32, 64, 4, 3), (32, 64, 4, 2), (32, 64, 4, 1)),
        128: ((64, 128, 8, 3), (64, 64, 4, 2), (32, 64, 4, 2), (32, 64, 4, 1)),
        256: ((32, 64, 8, 2), (32, 64, 8, 1), (32, 32, 4, 1)),
    },
}
#: For float32, whose products run on the ordinary units in full precision.
WIDE_ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    name: {
        64: ((64, 32, 4, 2), (32, 32, 4, 2), (32, 32, 4, 1)),
        128: ((32, 32, 4, 2), (32, 32, 4, 1)),
        256: ((32, 16, 4, 1), (16, 16, 4, 1)),
    }
    for name in ROWS
}
SHARED_LIMITS: Final = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}
DEFAULT_LIMIT: Final = 64
MAX_HEAD_DIM: Final = 256


def choose_triton_schedules(problem: Problem, target: Target) -> Schedules:
    """How each pass runs. Raises InputError for tile sizes that a kernel cannot have."""
    return Schedules(*(_choose(name, problem, target) for name in ("forward", "backward_q", "backward_kv")))


def head_tile(dim: int) -> int:
    """The width at which a kernel holds a head: a power of two, at least 16."""
    return max(16, 1 << (dim - 1).bit_length())


def _choose(name: str, problem: Problem, target: Target) -> TritonSchedule:
    width = max(head_tile(problem.head_dim), head_tile(problem.value_dim))
    table = (WIDE_ROWS if problem.dtype == "float32" else ROWS)[name]
    rows = table[64 if width <= 64 else 128 if width <= 128 else 256]
    limit = SHARED_LIMITS.get(target.arch or "", DEFAULT_LIMIT) * 1024
    row = next((row for row in rows if shared_bytes(row, problem, name) <= limit), rows[-1])
    schedule = TritonSchedule(*row, _reasons(name, row, problem, rows))
    return _asked(schedule, problem)


def shared_bytes(row: Row, problem: Problem, name: str) -> int:
    """An estimate of the shared memory that a kernel takes: the tiles in flight, and those that it owns."""
    tile_q, tile_kv, _, stages = row
    width = head_tile(problem.head_dim) + head_tile(problem.value_dim)
    size = 4 if problem.dtype == "float32" else 2
    owned, walked = (tile_kv, tile_q) if name == "backward_kv" else (tile_q, tile_kv)
    in_flight = max(stages - 1, 1) * walked * width
    kept = owned * (width if name != "forward" else head_tile(problem.head_dim))
    scores = tile_q * tile_kv if name != "forward" else 0
    return size * (in_flight + kept + scores)


def _reasons(name: str, row: Row, problem: Problem, rows: tuple[Row, ...]) -> tuple[str, ...]:
    tile_q, tile_kv, warps, stages = row
    why = "fastest of those measured" if row == rows[0] else "the fastest that fits this GPU's shared memory"
    where = MEASURED if problem.dtype != "float32" else "float32 products in full precision leave room for small tiles"
    return (f"tiles of {tile_q} queries x {tile_kv} keys, {warps} warps, {stages} stages: {why} ({where})",)


def _asked(schedule: TritonSchedule, problem: Problem) -> TritonSchedule:
    """The schedule with the caller's tile sizes."""
    for name, size in (("block_m", problem.tile_q), ("block_n", problem.tile_kv)):
        if size is not None and not (16 <= size <= 256 and size & (size - 1) == 0):
            raise InputError(
                f"{name} is {size}, which a Triton kernel cannot have", hint="a power of two from 16 to 256"
            )
    if problem.tile_q is None and problem.tile_kv is None:
        return schedule
    tile_q, tile_kv = problem.tile_q or schedule.tile_q, problem.tile_kv or schedule.tile_kv
    reason = f"tiles of {tile_q} queries x {tile_kv} keys: asked for"
    return replace(schedule, tile_q=tile_q, tile_kv=tile_kv, reasons=(reason, *schedule.reasons))

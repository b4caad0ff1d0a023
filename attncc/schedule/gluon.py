"""How Gluon kernels run on Hopper: warpgroups, tiles, stages, and how they hand work to one another.

`ROWS` holds the choices by head size, the fastest measured first. A Gluon kernel takes a 16-bit dtype, and tensors that
the GPU's tensor memory accelerator (TMA) can load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from attncc.schedule.target import Problem, Target

ARCH: Final = "sm_90"
DTYPES: Final = ("bfloat16", "float16")
#: The backward pass that makes all gradients. Programs add to dQ in any order.
ONE_PASS: Final = "backward"
#: Rows of a product that one warpgroup computes.
WARPGROUP_ROWS: Final = 64
#: Threads and registers of a multiprocessor decide how many registers a warpgroup may have.
REGISTERS: Final = {2: 240, 3: 160}
PRODUCER_REGISTERS: Final = 24
#: The same in the backward pass that makes all gradients at once: of the two that own keys, and of the one for dQ.
ONE_PASS_REGISTERS: Final = (208, 72)


@dataclass(frozen=True, slots=True)
class GluonSchedule:
    """How one Gluon kernel runs; `reasons` say why.

    `consumers` warpgroups own 64 queries each. `named_empties` frees stages by named barriers instead of barriers in
    memory; with `takes_turns` two consumers start their products in turn; `out_over_q` stores the output through the
    memory of the queries; `v_stages` is 0 where V has as many stages as K. `pipelined` starts the scores of the
    next tile behind the products of this one. Up to `persistent_until` queries one program runs on each multiprocessor
    and takes tile after tile: it loads the next while it ends one. With longer sequences such programs drift apart and
    share less of the L2 cache.
    """

    tile_q: int
    tile_kv: int
    consumers: int
    stages: int
    named_empties: bool = False
    takes_turns: bool = False
    persistent_until: int = 0
    out_over_q: bool = False
    v_stages: int = 0
    pipelined: bool = True
    reasons: tuple[str, ...] = ()

    @property
    def num_warps(self) -> int:
        """Warps of the first consumer, as Triton counts; the others are workers."""
        return 4

    @property
    def num_stages(self) -> int:
        """Stages that Triton would make; here the kernel makes its own."""
        return 1


#: A tile of queries that visits so few keys is faster in plain Triton, of whose programs several share a
#: multiprocessor: with 256 keys 1.5 times (block_local, D 128, S 8192, 2026-11-23); with 1100 keys it is slower.
FEW_KEYS: Final = 320
MEASURED: Final = "H100, bf16, B S 16384, H D 2048, full and causal, 2026-11-23"


def _forward(
    consumers: int, tile_kv: int, stages: int = 2, *, turns: bool = False, over: bool = False
) -> GluonSchedule:
    return GluonSchedule(
        consumers * WARPGROUP_ROWS,
        tile_kv,
        consumers,
        stages,
        named_empties=stages == 2,
        persistent_until=4096,
        takes_turns=turns,
        out_over_q=over,
    )


def _backward(tile_q: int, tile_kv: int, stages: int, *, pipelined: bool = True) -> GluonSchedule:
    return GluonSchedule(tile_q, tile_kv, 2, stages, pipelined=pipelined)


#: By pass and by head size held in the kernel.
ROWS: Final[dict[str, dict[int, tuple[GluonSchedule, ...]]]] = {
    "forward": {
        64: (_forward(3, 128), _forward(2, 128, turns=True), _forward(2, 64, 4)),
        128: (_forward(2, 128, turns=True), _forward(2, 64, 3)),
        256: (_forward(2, 64, turns=True, over=True),),
    },
    "backward_q": {
        64: (_backward(128, 128, 2), _backward(128, 64, 3)),
        128: (_backward(128, 128, 2), _backward(128, 64, 2)),
    },
    "backward_kv": {
        64: (_backward(64, 128, 3),),
        128: (_backward(64, 128, 3),),
    },
    "backward": {
        64: (_backward(64, 128, 3),),
        128: (_backward(64, 128, 2, pipelined=False),),
    },
}


#: Up to so many queries tiles of 128 queries waste less than those of 192, and programs that take tile after tile hide
#: their starts: at 1024 1.37 and at 2048 1.11 times as fast (causal, D 64, H100, 2026-11-24).
SHORT: Final = 2048
SHORT_ROWS: Final[dict[str, dict[int, tuple[GluonSchedule, ...]]]] = {
    "forward": {64: (_forward(2, 128, turns=True), _forward(2, 64, 4))},
}


def is_short(problem: Problem) -> bool:
    """Whether a call has so few queries that a Gluon kernel of its own serves it: by its facts, or as drawn before."""
    widest = max(gluon_head_tile(problem.head_dim), gluon_head_tile(problem.value_dim))
    few = problem.facts is not None and problem.facts.q_len <= SHORT
    if problem.short or not few:
        return problem.short
    return problem.dtype in DTYPES and any(widest in rows for rows in SHORT_ROWS.values())


def gluon_head_tile(dim: int) -> int:
    """The width at which a Gluon kernel holds a head."""
    return max(64, 1 << (dim - 1).bit_length())


def choose_gluon_schedules(
    name: str, problem: Problem, target: Target, keys: float | None = None
) -> tuple[GluonSchedule, ...]:
    """The schedules that a pass may run under, best first; none where it has no Gluon kernel."""
    if refusal(name, problem, target, keys) is not None:
        return ()
    head, value = gluon_head_tile(problem.head_dim), gluon_head_tile(problem.value_dim)
    short = SHORT_ROWS.get(name, {}) if is_short(problem) else {}
    rows = short.get(max(head, value)) or ROWS[name][max(head, value)]
    return tuple(replace(row, reasons=(_reason(row),)) for row in rows if head == value or not row.out_over_q)


def refusal(name: str, problem: Problem, target: Target, keys: float | None = None) -> str | None:
    """Why a pass has no Gluon kernel; None where it has. `keys` are those that a tile of queries visits on average."""
    if target.arch != ARCH:
        return f"Gluon kernels are for {ARCH}"
    if not target.gluon:
        return "ATTNCC_GLUON is 0, or the installed Triton is none that Gluon kernels are tested with"
    if problem.dtype not in DTYPES:
        return f"the tensor cores of Hopper multiply {' and '.join(DTYPES)}, not {problem.dtype}"
    if problem.tile_q or problem.tile_kv:
        return "tile sizes were asked for"
    if name == ONE_PASS and problem.deterministic:
        return "it adds to dQ in any order, and gradients were asked for whose bits are the same in every run"
    width = max(gluon_head_tile(problem.head_dim), gluon_head_tile(problem.value_dim))
    if width not in ROWS.get(name, {}):
        return f"this pass has none for heads of {max(problem.head_dim, problem.value_dim)}"
    if keys is not None and keys <= FEW_KEYS:
        return f"a tile of queries visits {keys:.0f} keys, too few for the start of warps that load and compute to pay"
    return None


def _reason(row: GluonSchedule) -> str:
    return (
        f"Hopper kernel, tiles of {row.tile_q} queries x {row.tile_kv} keys, {row.consumers} warpgroups compute and "
        f"one warp loads, {row.stages} stages: fastest of those measured ({MEASURED})"
    )

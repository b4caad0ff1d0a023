"""How Triton kernels run: tiles, warps and pipeline stages, for a target, dtype, head size and pass.

`ROWS` holds the choices, the fastest measured first. What a kernel keeps in shared memory is estimated here, so that
a choice that cannot run is not tried; registers and the rest are known from compiling: whoever builds a kernel takes
the first choice that keeps all its values in registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from attncc.errors import InputError
from attncc.schedule.gluon import ARCH as GLUON_ARCH
from attncc.schedule.gluon import ONE_PASS, GluonSchedule, choose_gluon_schedules, refusal
from attncc.schedule.target import Problem, Target

Row = tuple[int, int, int, int]  # tile_q, tile_kv, num_warps, num_stages


@dataclass(frozen=True, slots=True)
class TritonSchedule:
    """How one kernel runs on a GPU; `reasons` say why.

    `ahead`: in a loop over tiles that are visible as a whole each step begins a product of the next. `registers`: the
    tile that a program owns, and multiplies first, is held in registers instead of shared memory.
    """

    tile_q: int
    tile_kv: int
    num_warps: int
    num_stages: int
    reasons: tuple[str, ...] = ()
    ahead: bool = False
    registers: bool = False


AnySchedule = TritonSchedule | GluonSchedule


@dataclass(frozen=True, slots=True)
class Schedules:
    """How each pass of a variant runs. `others` are further choices by name, for kernels that the first do not suit.

    `backward` are the choices for one pass that makes all gradients; where there are none two passes run.
    """

    forward: AnySchedule
    backward_q: AnySchedule
    backward_kv: AnySchedule
    backward_pairs: TritonSchedule
    others: tuple[tuple[str, tuple[AnySchedule, ...]], ...] = ()
    backward: tuple[GluonSchedule, ...] = ()

    @property
    def has_gluon(self) -> bool:
        """Whether some pass may run in Gluon."""
        every = (getattr(self, name) for name in ROWS), (s for _, further in self.others for s in further)
        return bool(self.backward) or any(isinstance(s, GluonSchedule) for schedules in every for s in schedules)

    def without_gluon(self, why: str) -> Schedules:
        """These schedules for what Gluon kernels do not take, and why: the first choices that are Triton's."""
        every = {name: (getattr(self, name), *further) for name, further in self.others}
        plain = {
            n: tuple(_plain(s, why) if len(t) < len(found) else s for s in t)
            for n, found in every.items()
            for t in [[s for s in found if isinstance(s, TritonSchedule)]]
        }
        firsts: dict[str, Any] = {name: found[0] for name, found in plain.items()}
        others = tuple((name, found[1:]) for name, found in plain.items())
        return replace(self, **firsts, others=others, backward=())

    def choices(self, name: str) -> tuple[Schedules, ...]:
        """These schedules, then the same with each further choice for one name; the last for one pass is two."""
        if name == ONE_PASS:
            return tuple(replace(self, backward=self.backward[i:]) for i in range(len(self.backward) + 1))
        further = dict(self.others).get(name, ())
        return (self, *(replace(self, **{name: schedule}) for schedule in further))  # type: ignore[arg-type]  # a pass


FASTEST: Final = "fastest of those measured that keep their values in registers"
HOPPER_CHOICE: Final = "products run beside weights, and all values are in registers (machine code; not timed)"
MEASURED: Final = "H100, bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23"
#: For 16-bit inputs, by head size held in the kernel (a power of two).
ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    "forward": {
        64: ((128, 64, 8, 4), (128, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 2)),
        128: ((128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 1)),
        256: ((128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 3), (64, 32, 4, 2), (64, 32, 8, 1), (32, 32, 4, 1)),
    },
    "backward_q": {
        64: ((64, 32, 4, 3), (128, 64, 8, 3), (64, 64, 4, 2), (64, 32, 4, 1)),
        128: ((128, 64, 8, 3), (128, 32, 8, 3), (64, 64, 8, 2), (64, 32, 4, 2), (64, 32, 4, 1)),
        256: (
            *((128, 32, 8, 3), (128, 32, 8, 2), (64, 32, 8, 2), (64, 32, 8, 1), (32, 32, 8, 1), (32, 32, 4, 1)),
            (16, 32, 4, 1),
        ),
    },
    "backward_kv": {
        64: ((64, 64, 4, 3), (64, 64, 4, 2), (32, 64, 4, 3), (32, 64, 4, 2), (32, 64, 8, 1), (32, 32, 4, 1)),
        128: ((32, 64, 4, 3), (64, 128, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2), (32, 64, 8, 1), (32, 32, 4, 1)),
        256: ((64, 32, 4, 2), (64, 64, 8, 2), (32, 64, 8, 2), (32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 4, 1)),
    },
    "backward_pairs": {
        64: ((64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 1), (32, 32, 4, 1)),
        128: ((64, 64, 8, 2), (64, 32, 8, 2), (32, 32, 4, 1)),
        256: ((64, 32, 8, 2), (32, 64, 8, 1), (32, 32, 8, 1), (32, 32, 4, 1), (16, 32, 4, 1)),
    },
}
#: Where query heads share key heads: the loop over them costs the pass over keys so many registers that the rows above
#: spill in every variant of a survey of eight (compiled for sm_90, 2026-11-23).
GROUPED_ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    "backward_kv": {
        64: ((32, 64, 4, 3), (32, 64, 4, 2), (32, 64, 8, 1), (64, 64, 8, 1), (16, 32, 4, 1)),
        128: ((32, 64, 8, 1), (32, 32, 4, 1)),
    }
}
#: Where tiles come from a table: most are cut by the mask, so that low ones pay (12 documents, D 128: 195 TFLOP/s
#: forward against 176, H100, 2026-11-23), and addresses take fewer registers than closed forms.
TABULATED_ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    "forward": {128: ((64, 32, 4, 3), *ROWS["forward"][128])},
    "backward_kv": ROWS["backward_kv"],
}
#: On Hopper, for 16-bit inputs, before those above, by head size. With three stages and more a product runs beside what
#: does not need it; with two, ptxas lets none do, unless a product is begun ahead.
HOPPER: Final[dict[str, dict[int, tuple[TritonSchedule, ...]]]] = {
    "forward": {128: (TritonSchedule(128, 64, 8, 3, ahead=True),)},
    "backward_q": {
        128: (
            TritonSchedule(128, 64, 8, 3, ahead=True, registers=True),
            TritonSchedule(128, 64, 8, 3, ahead=True),
        ),
    },
    "backward_kv": {
        128: (
            TritonSchedule(32, 128, 8, 3, ahead=True, registers=True),
            TritonSchedule(32, 128, 8, 3, registers=True),
            TritonSchedule(32, 128, 8, 3),
        ),
        256: (TritonSchedule(32, 64, 8, 2, ahead=True),),
    },
}
#: The same where query heads share key heads, in the pass over keys.
HOPPER_GROUPED: Final[dict[str, dict[int, tuple[TritonSchedule, ...]]]] = {
    "backward_kv": {128: (TritonSchedule(32, 128, 8, 3),)}
}
#: For float32, whose products run on the ordinary units in full precision. Triton unrolls them: with more than 512 of a
#: product in each thread, kernels spill in some variants and take seconds to compile. First come tiles that spill in
#: none of nine variants and read shared memory seldom: rows of both factors of `q @ k.T` begin in the same bank, so
#: that many owned rows and few warps pay (compiled for sm_90 and, last in each row, gfx942, Triton 3.6, 2026-11-24;
#: not timed).
WIDE_ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    "forward": {
        64: ((64, 32, 8, 2), (64, 16, 8, 2), (32, 32, 4, 1), (16, 16, 4, 1)),
        128: ((32, 16, 8, 2), (16, 32, 4, 1), (16, 16, 4, 1)),
        256: ((32, 16, 8, 2), (16, 16, 8, 1), (16, 16, 4, 1)),
    },
    "backward_q": {
        64: ((64, 32, 8, 1), (64, 16, 8, 1), (32, 32, 4, 1), (16, 16, 4, 1)),
        128: ((32, 16, 8, 1), (16, 16, 8, 1)),
        256: ((32, 16, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)),
    },
    "backward_kv": {
        64: ((16, 64, 8, 1), (16, 32, 8, 1), (16, 16, 4, 1)),
        128: ((16, 32, 8, 1), (16, 16, 8, 1)),
        256: ((16, 16, 8, 1), (16, 16, 4, 1)),
    },
    "backward_pairs": {
        64: ((32, 32, 8, 1), (16, 16, 4, 1)),
        128: ((32, 16, 8, 1), (16, 16, 8, 1)),
        256: ((16, 16, 8, 1), (16, 16, 4, 1)),
    },
}
#: For float32 whose products may round to TF32, on the matrix units; chosen in the same way, not timed.
TF32_ROWS: Final[dict[str, dict[int, tuple[Row, ...]]]] = {
    **{
        name: {
            64: ((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
            128: ((128, 32, 8, 2), (64, 32, 8, 2), (32, 32, 8, 1), (32, 32, 4, 1)),
            256: ((32, 16, 4, 1), (16, 16, 4, 1)),
        }
        for name in ("forward", "backward_q", "backward_pairs")
    },
    "backward_kv": {
        64: ((32, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
        128: ((64, 32, 8, 2), (32, 32, 8, 1), (16, 16, 4, 1)),
        256: ((32, 32, 8, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
    },
}
#: KiB of shared memory that one program may have, by target.
SHARED_LIMITS: Final = {
    **{"sm_80": 163, "sm_86": 99, "sm_87": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_103": 227},
    **{"sm_120": 99, "sm_121": 99, "gfx90a": 64, "gfx942": 64, "gfx950": 160},
}
DEFAULT_LIMIT: Final = 64
#: What sums and maxima over rows, and the rows of lse and delta, take at most.
REDUCTIONS: Final = 5120
MAX_HEAD_DIM: Final = 256


def choose_triton_schedules(
    problem: Problem, target: Target, tabulated: bool = False, keys: float | None = None
) -> Schedules:
    """How each pass runs; `tabulated` says that tiles come from a table, not from closed forms, `keys` how many a tile
    of queries visits on average, where that is known.

    Raises InputError for tile sizes that a kernel cannot have.
    """
    chosen: dict[str, tuple[AnySchedule, ...]]
    chosen = {name: _choose(name, problem, target, tabulated) for name in ROWS}
    for name in chosen if target.arch == GLUON_ARCH else ():
        why = refusal(name, problem, target, keys)
        plain = tuple(s if why is None else _plain(s, why) for s in chosen[name] if isinstance(s, TritonSchedule))
        chosen[name] = (*choose_gluon_schedules(name, problem, target, keys), *plain)
    others = tuple((name, schedules[1:]) for name, schedules in chosen.items())
    firsts: dict[str, Any] = {name: schedules[0] for name, schedules in chosen.items()}
    return Schedules(**firsts, others=others, backward=choose_gluon_schedules(ONE_PASS, problem, target, keys))


def _plain(schedule: TritonSchedule, why: str) -> TritonSchedule:
    """The schedule with the reason why no Gluon kernel runs."""
    return replace(schedule, reasons=(*schedule.reasons, f"plain Triton: {why}"))


def head_tile(dim: int) -> int:
    """The width at which a kernel holds a head: a power of two, at least 16."""
    return max(16, 1 << (dim - 1).bit_length())


def rows_of(name: str, problem: Problem, tabulated: bool) -> tuple[Row, ...]:
    """The rows for a pass, best first: what suits the mask before what suits the heads, and both before the rest."""
    width = _width(problem)
    if problem.dtype == "float32":
        return (TF32_ROWS if problem.tf32 else WIDE_ROWS)[name][width]
    tables = [TABULATED_ROWS] * tabulated + [GROUPED_ROWS] * (problem.heads != problem.kv_heads)
    return next((table[name][width] for table in tables if width in table.get(name, ())), ROWS[name][width])


def _width(problem: Problem) -> int:
    """The head size that the tables go by."""
    width = max(head_tile(problem.head_dim), head_tile(problem.value_dim))
    return 64 if width <= 64 else 128 if width <= 128 else 256


def _choose(name: str, problem: Problem, target: Target, tabulated: bool) -> tuple[TritonSchedule, ...]:
    """Every schedule that a pass may run under, best first."""
    rows = rows_of(name, problem, tabulated)
    limit = SHARED_LIMITS.get(target.arch or "", DEFAULT_LIMIT) * 1024
    fitting = tuple(row for row in rows if shared_bytes(row, problem, name) <= limit) or rows[-1:]
    schedules = (TritonSchedule(*row, _reasons(row, problem, rows)) for row in fitting)
    first = _hopper(name, problem, target)
    return tuple(dict.fromkeys(_asked(schedule, problem) for schedule in (*first, *schedules)))


def _hopper(name: str, problem: Problem, target: Target) -> tuple[TritonSchedule, ...]:
    """What is tried first on Hopper; the interpreter, which has no arch, runs the same forms."""
    if target.arch not in (None, "sm_90") or problem.dtype == "float32":
        return ()
    table = HOPPER_GROUPED if name == "backward_kv" and problem.heads != problem.kv_heads else HOPPER
    rows = table.get(name, {}).get(_width(problem), ())
    limit = SHARED_LIMITS["sm_90"] * 1024
    fitting = [s for s in rows if shared_bytes(_row(s), problem, name, ahead=s.ahead) <= limit]
    return tuple(replace(s, reasons=(_reason(s),)) for s in fitting)


def _row(schedule: TritonSchedule) -> Row:
    return schedule.tile_q, schedule.tile_kv, schedule.num_warps, schedule.num_stages


def _reason(schedule: TritonSchedule) -> str:
    """Why a schedule of the tables for Hopper runs."""
    tile_q, tile_kv, warps, stages = _row(schedule)
    forms = ", each step begins a product of the next tile" * schedule.ahead
    forms += ", the owned tile in registers" * schedule.registers
    how = f"tiles of {tile_q} queries x {tile_kv} keys, {warps} warps, {stages} stages{forms}"
    return f"{how}: {HOPPER_CHOICE}"


def shared_bytes(row: Row, problem: Problem, name: str, pair_bytes: int = 0, *, ahead: bool = False) -> int:
    """The most shared memory that a kernel takes: the tiles in flight, those that it owns, and what reductions need.

    `pair_bytes` is what captured tensors take for each pair, where both positions index them; `ahead` says that a
    product of the next tile begins in each step.
    """
    tile_q, tile_kv, _, stages = row
    head, value = head_tile(problem.head_dim), head_tile(problem.value_dim)
    size = 4 if problem.dtype == "float32" else 2
    owned, walked = (tile_kv, tile_q) if name == "backward_kv" else (tile_q, tile_kv)
    in_flight = stages * walked * (head + value)
    if ahead:
        in_flight += walked * {"forward": head + value, "backward_kv": (stages + 1) * value}.get(name, value)
    kept = owned * (head if name == "forward" else head + value)
    of_pairs = pair_bytes * max(stages - 1, 1) + (0 if name == "forward" else 2 * size)
    return size * (in_flight + kept) + tile_q * tile_kv * of_pairs + REDUCTIONS


def _reasons(row: Row, problem: Problem, rows: tuple[Row, ...]) -> tuple[str, ...]:
    tile_q, tile_kv, warps, stages = row
    first, where = FASTEST, MEASURED
    if problem.dtype == "float32":
        first, how = "reads shared memory seldom", "in full precision on the ordinary units"
        if problem.tf32:
            first, how = "the largest of those compiled", "rounded to TF32 on the matrix units"
        first, where = f"{first}, with all values in registers", f"float32 products {how}; not timed"
    why = first if row == rows[0] else "the fastest that fits this GPU's memory and registers"
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

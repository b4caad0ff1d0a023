"""The kernels of a variant, drawn: forward, and the passes backward.

Each function fills one template and names the arguments of its kernel in their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from attncc.analysis.bands import Bands, MaskShape
from attncc.analysis.shape import depends
from attncc.analysis.tiles import TileTest
from attncc.emit.gradients import Derivatives
from attncc.emit.kernel import Argument
from attncc.emit.printer import Place
from attncc.emit.triton.ahead import begins_ahead
from attncc.emit.triton.expressions import EVERYTHING, pointer_type
from attncc.emit.triton.plan import (
    STORE_PAIRS,
    SUM_TILES,
    Draft,
    Drawn,
    Role,
    argument_lines,
    common_values,
    draw_loops,
    edge_mask,
    load_lines,
    pointer,
    size,
    stride_arguments,
)
from attncc.emit.triton.statistics import statistics_of
from attncc.emit.triton.visits import KEYS, QUERIES, Visits, Walk, is_tabulated, visits
from attncc.ir import KV_IDX, Q_IDX, TRUE, AttentionSpec, Expr, Op, apply, param, postorder, substitute
from attncc.ir.syntax import Level
from attncc.passes import simplify
from attncc.schedule import Problem
from attncc.schedule.guards import Guarded
from attncc.schedule.triton import AnySchedule, TritonSchedule

SIZES: Final = ("batch", "heads", "group", "q_len", "kv_len")
#: q_idx - kv_idx, where indices are written along diagonals.
DISTANCE: Final = param("distance")
#: What the kernel before the passes backward reads and leaves of each row.
PREPARED: Final = ("largest_ptr", "sums_ptr", "grad_lse_ptr", "lse2_ptr", "delta_ptr")
#: From this magnitude of a number in a score on, the last bit of a 32-bit score is no small change of a weight.
HUGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """What the kernels of one variant are drawn from. `aligned` promises addresses and strides divisible by 16;
    `wide` takes sequences of 2 ** 31 elements and more; `one_pass` makes all gradients in programs that own keys."""

    guarded: Guarded
    problem: Problem
    shape: MaskShape
    derivatives: Derivatives | None = None
    aligned: bool = True
    wide: bool = False
    grad_lse: bool = False
    one_pass: bool = False

    @property
    def spec(self) -> AttentionSpec:
        """The spec as kernels evaluate it."""
        return self.guarded.spec

    @property
    def test(self) -> TileTest:
        """The classification of tiles."""
        return self.shape.test

    @property
    def shares_rows(self) -> bool:
        """Whether scores may be so large that a row's lse, rounded, does not tell its sum of weights."""
        numbers = (e.value for e in postorder(self.spec.score) if e.op is Op.CONST)
        huge = any(isinstance(x, int | float) and HUGE <= abs(x) < math.inf for x in numbers)
        return huge or self.problem.dtype == "float32"

    @property
    def shares(self) -> tuple[str, ...]:
        """The tensor that holds what weights lack because of that."""
        return ("share_ptr",) if self.shares_rows else ()

    @property
    def row_sums(self) -> tuple[Expr, ...]:
        """The reads whose gradients a tile of queries owns."""
        of_rows = (load for load in self.loads if "kv_idx" not in depends_on(load))
        return tuple(load for load in of_rows if not self.one_pass or "q_idx" in depends_on(load))

    @property
    def column_sums(self) -> tuple[Expr, ...]:
        """The reads whose gradients a tile of keys owns: those of neither position too, if it may own all."""
        of_columns = (load for load in self.loads if "q_idx" not in depends_on(load))
        return tuple(load for load in of_columns if self.one_pass or "kv_idx" in depends_on(load))

    @property
    def diagonal_sums(self) -> tuple[Expr, ...]:
        """The reads whose index changes with q_idx - kv_idx, and with neither alone."""
        both = [load for load in self.loads if depends_on(load) >= {"q_idx", "kv_idx"}]
        return tuple(load for load in both if along_diagonal(load) is not None)

    @property
    def pair_sums(self) -> tuple[Expr, ...]:
        """The reads whose index changes with both positions, in any other way."""
        both = [load for load in self.loads if depends_on(load) >= {"q_idx", "kv_idx"}]
        return tuple(load for load in both if along_diagonal(load) is None)

    @property
    def loads(self) -> tuple[Expr, ...]:
        """The reads that take a gradient."""
        return () if self.derivatives is None else tuple(self.derivatives.by_load)


def depends_on(load: Expr) -> frozenset[str]:
    """The inputs with which the index of a read changes."""
    return frozenset[str]().union(*(depends(index) for index in load.args))


def range_roots(shape: MaskShape) -> tuple[Expr, ...]:
    """The expressions that ranges are made of, where kernels walk ranges."""
    if is_tabulated(shape) or not isinstance(shape, Bands):
        return ()
    ranges = (*shape.kv_ranges, *shape.q_ranges)
    return tuple(e for r in ranges for e in (r.start, r.stop, r.full_start, r.full_stop, r.when))


def draw_visits(draft: Draft, variant: Variant, walked: Walk) -> Visits:
    """The tiles that a program visits; what their ranges need is printed before the loops."""
    place = Place("ranges", EVERYTHING)
    owned = ("q_min", "q_max", "q_start", "TILE_Q", "q_len")
    if walked is QUERIES:
        owned = ("kv_min", "kv_max", "kv_start", "TILE_KV", "kv_len")
    low, high, start, tile, length = owned
    lines = draft.printer.lines
    lines["ranges"] = []

    def write(*roots: Expr) -> list[str]:
        texts = draft.printer.print((place,), *roots)
        return [texts[root].at(Level.UNARY) for root in roots]

    found = visits(variant.shape, walked, write)
    ends = [f"{low} = {start}", f"{high} = tl.minimum({start} + {tile}, {length}) - 1"]
    said = [str(line) for line in lines["ranges"]]
    used = any(name in line for line in (*said, *found.before) for name in (low, high))
    return replace(found, before=(*(ends if used else ()), *said, *found.before))


def along_diagonal(load: Expr) -> tuple[Expr, ...] | None:
    """The indices of a read in terms of b, h and the parameter `distance`, q_idx - kv_idx; None where they are not."""
    shifted = {Q_IDX: apply(Op.ADD, KV_IDX, DISTANCE)}
    indices = tuple(simplify(substitute(index, shifted)) for index in load.args)
    return None if any("kv_idx" in depends(index) for index in indices) else indices


def forward(variant: Variant, schedule: TritonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The forward kernel: out and lse of a tile of queries."""
    draft = Draft(variant.guarded, variant.problem, "triton/forward", readable=readable)
    tiles = draw_visits(draft, variant, KEYS)
    drawn = draw_loops(draft, "q_idx", tiles, None, ())
    problem = variant.problem
    extra = [*draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)), *table_arguments(tiles)]
    values = common_values(draft, schedule, docstring) | {
        "arguments": argument_lines(extra),
        "tile_order": _longest_first(variant.spec),
        "q_mask": edge_mask("q_row", "q_len", "in_head", problem.head_dim),
        "out_mask": edge_mask("q_row", "q_len", "in_value", problem.value_dim),
        **_loop_values(draft, tiles, drawn.loops, variant, schedule),
    }
    dtype = pointer_type(problem.dtype)
    own = [pointer(f"{name}_ptr", dtype, variant.aligned) for name in ("q", "k", "v", "out")]
    arguments = [
        *own,
        *(pointer(name, "*fp32") for name in ("lse_ptr", "largest_ptr", "sums_ptr")),
        *extra,
        *stride_arguments(("q", "k", "v", "out"), variant.aligned),
        *map(size, SIZES),
        (Argument("scale", "fp32"), Role("scale")),
    ]
    return Drawn(values, tuple(arguments))


def prepare(variant: Variant, schedule: AnySchedule, *, readable: bool) -> Drawn:
    """The kernel before the passes backward: delta, and lse in base 2."""
    draft = Draft(variant.guarded, variant.problem, "triton/prepare", readable=readable)
    dtype = pointer_type(variant.problem.dtype)
    values = common_values(draft, schedule, ("What both backward passes need of each row.",))
    arguments = [
        *(pointer(name, dtype, variant.aligned) for name in ("out_ptr", "grad_out_ptr")),
        *(pointer(name, "*fp32") for name in (*PREPARED, *variant.shares)),
        *stride_arguments(("out", "do"), variant.aligned),
        *map(size, ("heads", "q_len")),
    ]
    return Drawn(values | {"grad_lse": variant.grad_lse, "shares_rows": variant.shares_rows}, tuple(arguments))


def backward_q(variant: Variant, schedule: TritonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass in which a program owns a tile of queries."""
    draft = Draft(variant.guarded, variant.problem, "triton/backward_q", readable=readable)
    tiles = draw_visits(draft, variant, KEYS)
    sums = variant.row_sums
    drawn = draw_loops(draft, "q_idx", tiles, variant.derivatives, sums)
    problem = variant.problem
    extra = [
        *draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)),
        *table_arguments(tiles),
        *sum_arguments(sums),
    ]
    values = common_values(draft, schedule, docstring) | {
        "arguments": argument_lines(extra),
        "tile_order": _longest_first(variant.spec),
        "q_mask": edge_mask("q_row", "q_len", "in_head", problem.head_dim),
        "out_mask": edge_mask("q_row", "q_len", "in_value", problem.value_dim),
        "sum_starts": [f"grad_sum{i} = tl.zeros([TILE_Q], tl.float32)" for i in range(len(sums))],
        "sum_stores": [f"tl.store(grad_sum{i}_ptr + at, grad_sum{i}, mask=q_row < q_len)" for i in range(len(sums))],
        **_loop_values(draft, tiles, drawn.loops, variant, schedule),
    }
    return Drawn(values, _backward_arguments(variant, ("grad_q_ptr",), extra, ("dq",)))


def backward_kv(variant: Variant, schedule: TritonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass in which a program owns a tile of keys."""
    draft = Draft(variant.guarded, variant.problem, "triton/backward_kv", readable=readable)
    tiles = draw_visits(draft, variant, QUERIES)
    sums = variant.column_sums
    drawn = draw_loops(draft, "kv_idx", tiles, variant.derivatives, sums)
    problem = variant.problem
    extra = [
        *draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)),
        *table_arguments(tiles),
        *sum_arguments(sums),
    ]
    store = (
        "tl.store(grad_sum{0}_ptr + (b * heads + h).to(tl.int64) * kv_len + kv_row, grad_sum{0}, mask=kv_row < kv_len)"
    )
    values = common_values(draft, schedule, docstring) | {
        "arguments": argument_lines(extra),
        "tile_order": "program % tiles",
        "members": "1" if problem.heads == problem.kv_heads else "group",
        "k_mask": edge_mask("kv_row", "kv_len", "in_head", problem.head_dim),
        "v_mask": edge_mask("kv_row", "kv_len", "in_value", problem.value_dim),
        "sum_starts": [f"grad_sum{i} = tl.zeros([TILE_KV], tl.float32)" for i in range(len(sums))],
        "sum_stores": [store.format(i) for i in range(len(sums))],
        **_loop_values(draft, tiles, drawn.loops, variant, schedule, QUERIES),
    }
    return Drawn(values, _backward_arguments(variant, ("grad_k_ptr", "grad_v_ptr"), extra, ("dk", "dv")))


def backward_pairs(variant: Variant, schedule: TritonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass that writes out each pair's share in the gradients of captures that both positions index."""
    draft = Draft(variant.guarded, variant.problem, "triton/backward_pairs", readable=readable)
    tiles = draw_visits(draft, variant, KEYS)
    sums = variant.pair_sums
    drawn = draw_loops(draft, "q_idx", tiles, variant.derivatives, sums, STORE_PAIRS)
    extra = [
        *draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)),
        *table_arguments(tiles),
        *sum_arguments(sums),
    ]
    problem = variant.problem
    values = common_values(draft, schedule, docstring) | {
        "arguments": argument_lines(extra),
        "q_mask": edge_mask("q_row", "q_len", "in_head", problem.head_dim),
        "out_mask": edge_mask("q_row", "q_len", "in_value", problem.value_dim),
        **_loop_values(draft, tiles, drawn.loops, variant),
    }
    arguments = (*_backward_arguments(variant, (), extra, ()), *map(size, ("first_tile", "chunk_tiles")))
    return Drawn(values, arguments)


def backward_diagonal(variant: Variant, schedule: TritonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass that sums along diagonals; its tiles are square."""
    draft = Draft(variant.guarded, variant.problem, "triton/backward_diagonal", readable=readable)
    test, problem, sums = variant.test, variant.problem, variant.diagonal_sums
    tiles = draw_visits(draft, variant, KEYS)
    drawn = draw_loops(draft, "q_idx", tiles, variant.derivatives, sums, SUM_TILES)
    tables, reads = statistics_of(draft, test, {"q": "q_tile_index", "kv": "kv_tile_index"})
    place = Place("test", EVERYTHING)
    visit = draft.printer.print((place,), test.visit)[test.visit].text
    extra = [*draft.capture_arguments(*drawn.roots, test.visit), *tables, *sum_arguments(sums)]
    loops = _loop_values(draft, tiles, drawn.loops, variant)
    turn = "tl.gather(grad_sum{0}, turned, 1)"
    stores = [
        line.format(i)
        for i in range(len(sums))
        for line in (
            f"sums{{0}} = {turn}",
            "tl.store(grad_sum{0}_ptr + result_at + TILE_Q, tl.sum(tl.where(ahead, sums{0}, 0.0), 0))",
            "tl.store(grad_sum{0}_ptr + result_at, tl.sum(tl.where(ahead, 0.0, sums{0}), 0))",
        )
    ]
    values = (
        common_values(draft, schedule, docstring)
        | loops
        | {
            "arguments": argument_lines(extra),
            "sum_starts": [f"grad_sum{i} = tl.zeros([TILE_Q, TILE_KV], tl.float32)" for i in range(len(sums))],
            "sum_stores": stores,
            "test": [*reads, *draft.printer.lines["test"]],
            "visit": visit,
            "walk": {**drawn.loops[1], **load_lines(problem, True, variant.wide)},
        }
    )
    return Drawn(values, _backward_arguments(variant, (), extra, ()))


def _loop_values(
    draft: Draft,
    tiles: Visits,
    loops: Sequence[Mapping[str, object]],
    variant: Variant,
    schedule: TritonSchedule | None = None,
    walked: Walk = KEYS,
) -> dict[str, object]:
    """What the loops of a template and the lines before them are told. `schedule` is that of a template which begins
    products ahead where it is asked to."""
    lines = draft.printer.lines
    parts = [lines.get(place, []) for place in ("once", "rows", "partial", "full")]
    texts = [*(line for part in parts for line in part), *(str(loop["exponent"]) for loop in loops), *tiles.before]
    texts += [str(line) for loop in loops for line in loop["gradients"]]  # type: ignore[attr-defined]  # a list
    inside, guarded = (
        load_lines(variant.problem, masked, variant.wide, variant.shares_rows) for masked in (False, True)
    )
    walks = [{**loop, **(guarded if loop["masked"] else inside), "ahead": False} for loop in loops]
    if schedule is not None and schedule.ahead and tiles.full_count != "0":
        walks[0] |= begins_ahead(tiles, walked, inside, guarded)
    return {
        "helpers": draft.helpers(texts),
        "registers": schedule is not None and schedule.registers,
        "once": parts[0],
        "rows": parts[1],
        "visits": tiles.before,
        "shares_rows": variant.shares_rows,
        "folds_scale": not loops[0]["exponent"],
        "uses_scale_log2": not loops[0]["exponent"] or any("scale_log2" in text for text in map(str, texts)),
        "walks": walks,
    }


def _longest_first(spec: AttentionSpec) -> str:
    """Under a mask later queries tend to see more keys: the order in which tiles are taken."""
    return "program % tiles" if spec.mask is TRUE else "tiles - 1 - program % tiles"


def table_arguments(tiles: Visits) -> list[tuple[Argument, Role]]:
    """The table of tiles, where a kernel reads one."""
    return [(argument, Role(argument.name)) for argument in tiles.arguments]


def sum_arguments(sums: Sequence[Expr]) -> list[tuple[Argument, Role]]:
    """Where sums for the gradients of captured tensors go."""
    return [(Argument(f"grad_sum{i}_ptr", "*fp32", divisible=True), Role("grad_sum", i)) for i in range(len(sums))]


def _backward_arguments(
    variant: Variant, results: Sequence[str], extra: Sequence[tuple[Argument, Role]], strides: Sequence[str]
) -> tuple[tuple[Argument, Role], ...]:
    dtype = pointer_type(variant.problem.dtype)
    return (
        *(pointer(name, dtype, variant.aligned) for name in ("q_ptr", "k_ptr", "v_ptr", "grad_out_ptr")),
        *(pointer(name, "*fp32") for name in ("lse2_ptr", "delta_ptr", *variant.shares)),
        *(pointer(name, dtype, variant.aligned) for name in results),
        *extra,
        *stride_arguments(("q", "k", "v", "do", *strides), variant.aligned),
        *map(size, SIZES),
        (Argument("scale", "fp32"), Role("scale")),
    )

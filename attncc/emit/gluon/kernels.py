"""The Gluon kernels of a variant, drawn: forward, the two passes backward, and the one pass that makes all gradients.

Each function fills one template and names the arguments of its kernel in their order. What is computed of a pair, a row
or a tile is drawn as for Triton; a template cuts a program into a warp that loads and warpgroups that compute.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Final

from attncc.analysis.shape import depends
from attncc.emit.gluon.bounded import fixed_shift
from attncc.emit.gluon.language import MISSING, descriptor_type, row_type, sum_type
from attncc.emit.gluon.limits import draw_limits, roots_of, split_mask, with_mask
from attncc.emit.gluon.softmax import Softmax
from attncc.emit.gluon.visits import Steps
from attncc.emit.kernel import Argument
from attncc.emit.templates import fill
from attncc.emit.triton.kernels import SIZES, Variant, draw_visits, range_roots, sum_arguments, table_arguments
from attncc.emit.triton.plan import (
    FULL_TITLE,
    PARTIAL_TITLE,
    Draft,
    Drawn,
    Loops,
    Role,
    argument_lines,
    draw_loops,
    pointer,
    quoted,
    size,
)
from attncc.emit.triton.visits import KEYS, QUERIES, Visits
from attncc.ir import TRUE
from attncc.schedule.gluon import ONE_PASS_REGISTERS, PRODUCER_REGISTERS, REGISTERS, GluonSchedule, gluon_head_tile
from attncc.schedule.gluon import WARPGROUP_ROWS as ROWS

#: Bytes of K and V, or of Q and gradients, that heads running side by side may keep in the L2 cache.
L2_BYTES: Final = 20 << 20
WARPS: Final = ("consume", "reduce", "produce")
SHARED: Final = (
    *("q_tiles", "k_tiles", "v_tiles", "out_tiles", "do_tiles", "lse2_rows", "delta_rows", "grad_tiles", "dq_tiles"),
)
BARRIERS: Final = (
    *("q_full", "q_empty", "k_full", "k_empty", "v_full", "v_empty", "do_full", "empty", "grads_empty", "k_done"),
)
#: Columns of dQ that are added at a time.
PART: Final = 64
RESULTS: Final = ("lse_ptr", "largest_ptr", "sums_ptr")


def forward(variant: Variant, schedule: GluonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The forward kernel: out and lse of a tile of queries."""
    draft = Draft(variant.guarded, variant.problem, "gluon/forward", readable=readable)
    tiles = draw_visits(draft, variant, KEYS)
    spec, positive = variant.spec, variant.problem.positive
    # A score that reads kv_idx holds positions in registers, which limits would be held beside.
    limits, rest = split_mask(variant.shape, spec.mask, positive=positive, whole="kv_idx" in depends(spec.score))
    drawn = draw_loops(with_mask(draft, rest), "q_idx", tiles, None, ())
    in_full, in_partial = drawn.loops
    within = draw_limits(draft, limits, more=rest is not TRUE)
    loops = in_full, {**in_partial, "visible": str(in_partial["visible"]).replace("in_range", within, 1)}
    steps = Steps(tiles, KEYS, variant.shape)
    shift = fixed_shift(spec, variant.problem.dtype)
    values = (
        _common(draft, schedule, docstring)
        | _lines(draft, tiles, drawn)
        | {
            "total": steps.counts(at_least_one="total"),
            "first_start": steps.first(),
            "next_start": steps.any(),
            "first_scores": _scores(steps.first(), loops[1], ""),
            "scores": _branches(steps, loops),
            "softmax": Softmax(not loops[0]["exponent"], shift, spec.mask is not TRUE),
            "bounded": shift is not None,
        }
    )
    head, value = _widths(variant)
    boxes = {"q_desc": (ROWS, head), "k_desc": (schedule.tile_kv, head)}
    boxes |= {"v_desc": (schedule.tile_kv, value), "out_desc": (ROWS, value)}
    roots = (*drawn.roots, *roots_of(limits), *range_roots(variant.shape))
    extra = [*draft.capture_arguments(*roots), *table_arguments(tiles)]
    return _drawn("forward", variant, schedule, values, boxes, [pointer(name, "*fp32") for name in RESULTS], extra)


def backward_q(variant: Variant, schedule: GluonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass in which a program owns a tile of queries."""
    draft = Draft(variant.guarded, variant.problem, "gluon/backward_q", readable=readable)
    tiles = draw_visits(draft, variant, KEYS)
    sums = variant.row_sums
    drawn = draw_loops(draft, "q_idx", tiles, variant.derivatives, sums)
    steps = Steps(tiles, KEYS, variant.shape)
    values = (
        _common(draft, schedule, docstring)
        | _lines(draft, tiles, drawn)
        | _loops(steps, drawn)
        | {
            "sum_starts": [f"grad_sum{i} = tl.zeros([64], tl.float32, row_layout)" for i in range(len(sums))],
            "sum_stores": [
                f"tl.store(grad_sum{i}_ptr + at, grad_sum{i}, mask=q_row < q_len)" for i in range(len(sums))
            ],
        }
    )
    head, value = _widths(variant)
    boxes = {"q_desc": (ROWS, head), "k_desc": (schedule.tile_kv, head), "v_desc": (schedule.tile_kv, value)}
    boxes |= {"do_desc": (ROWS, value), "dq_desc": (ROWS, head)}
    rows = [pointer(name, "*fp32") for name in ("lse2_ptr", "delta_ptr")]
    extra = [*draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)), *table_arguments(tiles)]
    return _drawn("backward_q", variant, schedule, values, boxes, rows, [*extra, *sum_arguments(sums)])


def backward_kv(variant: Variant, schedule: GluonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass in which a program owns a tile of keys."""
    return _over_keys(variant, schedule, docstring, readable=readable, one_pass=False)


def backward(variant: Variant, schedule: GluonSchedule, docstring: Sequence[str], *, readable: bool) -> Drawn:
    """The pass in which a program owns a tile of keys, and adds what they give to the gradients of all queries."""
    return _over_keys(variant, schedule, docstring, readable=readable, one_pass=True)


def _over_keys(
    variant: Variant, schedule: GluonSchedule, docstring: Sequence[str], *, readable: bool, one_pass: bool
) -> Drawn:
    draft = Draft(variant.guarded, variant.problem, "gluon/backward_kv", readable=readable)
    tiles = draw_visits(draft, variant, QUERIES)
    sums = variant.column_sums
    drawn = draw_loops(draft, "kv_idx", tiles, variant.derivatives, sums)
    steps = Steps(tiles, QUERIES, variant.shape)
    at = "(b * heads + h).to(tl.int64) * kv_len + kv_row"
    values = (
        _common(draft, schedule, docstring)
        | _lines(draft, tiles, drawn)
        | _loops(steps, drawn)
        | {
            "sum_starts": [f"grad_sum{i} = tl.zeros([64], tl.float32, row_layout)" for i in range(len(sums))],
            "sum_stores": [
                f"tl.store(grad_sum{i}_ptr + {at}, grad_sum{i}, mask=kv_row < kv_len)" for i in range(len(sums))
            ],
            "kernel": "backward" if one_pass else "backward_kv",
            "one_pass": one_pass,
            "pipelined": schedule.pipelined,
        }
    )
    if one_pass:
        owner, adder = ONE_PASS_REGISTERS
        values |= {"worker_warps": "[4, 4, 1]", "worker_registers": str([owner, adder, PRODUCER_REGISTERS])}
    head, value = _widths(variant)
    boxes: dict[str, tuple[int, ...]]
    boxes = {"q_desc": (schedule.tile_q, head), "k_desc": (ROWS, head), "v_desc": (ROWS, value)}
    boxes |= {"do_desc": (schedule.tile_q, value), "lse2_desc": (schedule.tile_q,), "delta_desc": (schedule.tile_q,)}
    boxes |= {"dk_desc": (ROWS, head), "dv_desc": (ROWS, value)}
    boxes |= {"dq_sum_desc": (1, schedule.tile_q, PART)} if one_pass else {}
    extra = [*draft.capture_arguments(*drawn.roots, *range_roots(variant.shape)), *table_arguments(tiles)]
    return _drawn("backward_kv", variant, schedule, values, boxes, [], [*extra, *sum_arguments(sums)])


def _widths(variant: Variant) -> tuple[int, int]:
    """The widths at which heads are held, of q and k, and of v."""
    return gluon_head_tile(variant.problem.head_dim), gluon_head_tile(variant.problem.value_dim)


def _drawn(
    template: str,
    variant: Variant,
    schedule: GluonSchedule,
    values: dict[str, object],
    boxes: Mapping[str, tuple[int, ...]],
    rows: Sequence[tuple[Argument, Role]],
    extra: Sequence[tuple[Argument, Role]],
) -> Drawn:
    """The template filled, with what each kind of warps takes, and the arguments of the kernel."""
    dtype = variant.problem.dtype
    types = {n: _type(dtype, box) for n, box in boxes.items()}
    described = [(Argument(name, type_), Role(name)) for name, type_ in types.items()]
    scale = (Argument("scale", "fp32"), Role("scale"))
    arguments = (*described, *rows, *extra, *map(size, SIZES), scale)
    values["arguments"] = argument_lines(extra)
    names = [*(one.name for one, _ in arguments[: len(described) + len(rows)]), *SHARED, *BARRIERS]
    names += [one.name for one, _ in arguments[len(described) + len(rows) :]]
    return Drawn(values | _warp_parameters(template, values, names), arguments)


def _type(dtype: str, box: tuple[int, ...]) -> str:
    """The type of a tensor that the TMA moves: rows of lse2 and delta, tiles of a sum, or tiles of a head."""
    match box:
        case (rows,):
            return row_type(rows)
        case (1, rows, columns):
            return sum_type(rows, columns)
        case _:
            return descriptor_type(dtype, *box)


def _common(draft: Draft, schedule: GluonSchedule, docstring: Sequence[str]) -> dict[str, object]:
    """What the templates are told of the problem and the schedule."""
    problem, consumers = draft.problem, schedule.consumers
    head, value = gluon_head_tile(problem.head_dim), gluon_head_tile(problem.value_dim)
    return {
        "docstring": quoted(docstring) if draft.readable else (),
        "consumers": consumers,
        "consumer_numbers": range(consumers),
        "tile_q": schedule.tile_q,
        "tile_kv": schedule.tile_kv,
        "head_tile": head,
        "value_tile": value,
        "stages": schedule.stages,
        "v_stages": schedule.v_stages or schedule.stages,
        "named_empties": schedule.named_empties,
        "takes_turns": schedule.takes_turns,
        "out_over_q": schedule.out_over_q,
        "longest_first": draft.spec.mask is not TRUE,
        "section_rows": L2_BYTES // (2 * (head + value)),
        "worker_warps": str([4] * (consumers - 1) + [1]),
        "worker_registers": str([REGISTERS[consumers]] * (consumers - 1) + [PRODUCER_REGISTERS]),
    }


def _lines(draft: Draft, tiles: Visits, drawn: Loops) -> dict[str, object]:
    """What is computed before the tiles, and the functions that are called."""
    lines = draft.printer.lines
    once, rows, partial, full = (lines.get(place, []) for place in ("once", "rows", "partial", "full"))
    texts = [str(line) for line in (*once, *rows, *partial, *full, *tiles.before)]
    texts += [str(loop["exponent"]) for loop in drawn.loops]
    texts += [str(line) for loop in drawn.loops for line in loop["gradients"]]  # type: ignore[attr-defined]  # a list
    folds = not drawn.loops[0]["exponent"]
    return {
        "helpers": draft.helpers(texts, MISSING),
        "once": once,
        "rows": rows,
        "visits": tiles.before,
        "folds_scale": folds,
        "uses_scale_log2": folds or any("scale_log2" in text for text in texts),
    }


def _branches(steps: Steps, loops: Sequence[Mapping[str, object]]) -> list[str]:
    """What is done to the scores of a tile behind the first: one branch for those that the mask cuts, one for others.

    Where at most one tile is cut it comes first, and where no part of a score depends on the position, a full tile
    needs no branch.
    """
    in_full, in_partial = loops
    folds = not in_full["exponent"]
    if steps.only_partial:
        return _scores(steps.partial(), in_partial, "")
    if steps.tiles.at_most_one_partial:
        return [] if folds else _scores(steps.full(), in_full, "")
    cut = _scores(steps.partial(), in_partial, f"if visited < partial_count:  # {PARTIAL_TITLE}")
    return cut if folds else [*cut, *_scores(steps.full(), in_full, f"else:  # {FULL_TITLE}")]


def _scores(start: Sequence[str], loop: Mapping[str, object], condition: str) -> list[str]:
    """The lines that find a tile and turn its products into masked scores, `dot` or `exponent`."""
    score, masked = str(loop["exponent"]), bool(loop["masked"])
    lines = [*start, "kv_row = kv_start + tl.arange(0, TILE_KV, layout=column_layout)"]
    if masked:
        lines.append("kv_idx = tl.minimum(kv_row, kv_len - 1)[None, :]")
    else:
        lines.append("kv_idx = kv_row[None, :]")
    lines += [str(line) for line in loop["body"]]  # type: ignore[attr-defined]  # a list
    name = "exponent" if score else "dot"
    if masked:
        lines.append(f'{name} = tl.where({loop["visible"]}, {score or "dot"}, float("-inf"))')
    elif score:
        lines.append(f"{name} = {score}")
    return [condition, *(f"    {line}" for line in lines)] if condition else lines


def _loops(steps: Steps, drawn: Loops) -> dict[str, object]:
    """Both loops of a pass backward, and how many tiles there are."""
    in_full, in_partial = drawn.loops
    walks = [{**in_partial, "first": "0", "last": "partial_count", "start": steps.partial()}]
    if not steps.only_partial:
        walks.append({**in_full, "first": "partial_count", "last": "total", "start": steps.full()})
    return {"walks": walks, "total": steps.counts(at_least_one="partial_count"), "next_start": steps.any()}


def _warp_parameters(template: str, values: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    """What each kind of warps reads, of all these names."""
    every = {f"{kind}r_parameters": [f"{name}," for name in names] for kind in WARPS}
    tree = ast.parse(fill(f"gluon/{template}", {**values, **every}))
    read = {
        node.name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name in WARPS
    }
    return {f"{kind}r_parameters": _wrapped([name for name in names if name in own]) for kind, own in read.items()}


def _wrapped(names: Sequence[str]) -> list[str]:
    """Names as lines of at most 90 columns."""
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + len(name) < 90:
            lines[-1] += f" {name},"
        else:
            lines.append(f"{name},")
    return lines

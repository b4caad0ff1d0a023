"""The tiles behind `attncc cost`, as the kernels of a target have them: in closed form where the mask allows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attncc import pipeline
from attncc.analysis import depends
from attncc.analysis.bands import MaskShape, summarize_mask
from attncc.analysis.count import Grid, row_runs
from attncc.api.program import Reading
from attncc.api.values import check_captures, check_parameters
from attncc.emit.triton.visits import is_tabulated
from attncc.errors import UnsupportedError
from attncc.ir import TRUE, Expr
from attncc.report.cost import Cost, Machine, Shape, TileCounts, cost_of
from attncc.runtime import op, tiles
from attncc.schedule import Facts, Problem, Target
from attncc.schedule.triton import choose_triton_schedules

CLOSED = "summed in closed form"
TESTED = "each tile tested"


def cost_of_variant(reading: Reading, shape: Shape, machine: Machine, block_m: int | None, block_n: int | None) -> Cost:
    """The cost of a forward pass of the variant."""
    spec = pipeline.canonicalize(reading.program.spec)
    sizes = tiles.Sizes(shape.batch, shape.heads, shape.q_len, shape.kv_len)
    by_name = {"batch": shape.batch, "heads": shape.heads, "q_len": shape.q_len, "kv_len": shape.kv_len}
    tensors = check_captures(spec, reading.captures, by_name)
    captures = {c.name: tensor.detach() for c, tensor in zip(spec.captures, tensors, strict=True)}
    numbers = check_parameters(spec, reading.parameters)
    parameters = {p.name: value for p, value in zip(spec.parameters, numbers, strict=True)}
    head, heads = shape.head_dim, (shape.heads, shape.kv_heads)
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    facts = Facts(shape.batch, shape.q_len, shape.kv_len)
    problem = Problem(shape.dtype, head, head, *heads, dtypes, tile_q=block_m, tile_kv=block_n, facts=facts)
    mask = summarize_mask(spec.mask)
    target = Target("triton", "cuda", machine.arch, gluon=op.runs_gluon(machine.arch))
    keys = pipeline.visited_keys(mask, spec, shape.heads) if target.gluon else None
    schedule = choose_triton_schedules(problem, target, is_tabulated(mask), keys).forward
    grid = Grid(shape.q_len, shape.kv_len, schedule.tile_q, schedule.tile_kv)
    counted = _counted(spec.mask, grid, sizes, parameters, captures)
    return cost_of(spec.name, shape, machine, counted)


def _counted(
    mask: Expr, grid: Grid, sizes: tiles.Sizes, parameters: Mapping[str, int], captures: Mapping[str, Tensor]
) -> TileCounts:
    """The tiles of all batches and heads; those that cannot differ are counted once."""
    named = depends(mask) if mask is not TRUE else frozenset()
    batches, heads = sizes.batch if "b" in named else 1, sizes.heads if "h" in named else 1
    copies = sizes.batch * sizes.heads // max(1, batches * heads)
    full = masked = longest = 0
    how, shape = CLOSED, summarize_mask(mask)
    for b in range(min(batches, sizes.batch)):
        for h in range(min(heads, sizes.heads)):
            more, how = _one_head(mask, shape, grid, sizes, parameters, captures, b, h)
            full, masked, longest = full + more[0], masked + more[1], max(longest, more[2])
    total = grid.tiles * sizes.batch * sizes.heads
    programs = -(-grid.q_len // grid.tile_q) * sizes.batch * sizes.heads
    skipped = total - copies * (full + masked)
    return TileCounts(grid.tile_q, grid.tile_kv, copies * full, copies * masked, skipped, programs, longest, how)


def _one_head(
    mask: Expr,
    shape: MaskShape,
    grid: Grid,
    sizes: tiles.Sizes,
    parameters: Mapping[str, int],
    captures: Mapping[str, Tensor],
    b: int,
    h: int,
) -> tuple[tuple[int, int, int], str]:
    """Full and masked tiles of one head, the most that a row visits, and how they were counted."""
    try:
        found = row_runs(shape, grid, {**parameters, "b": b, "h": h, "batch": sizes.batch, "heads": sizes.heads})
    except UnsupportedError:
        full = masked = longest = 0
        for row in tiles.tile_rows(shape.test, sizes, grid.tile_q, grid.tile_kv, parameters, captures, b, h):
            whole, part = (int((row.classes == kind).sum()) for kind in (tiles.FULL, tiles.PARTIAL))
            full, masked, longest = full + whole, masked + part, max(longest, whole + part)
        return (full, masked, longest), f"{TESTED}, with the captured tensors of this call" if captures else TESTED
    totals = [run.totals for run in found]
    longest = max((max(run.start[0] + run.start[1], run.last[0] + run.last[1]) for run in found), default=0)
    return (sum(t[0] for t in totals), sum(t[1] for t in totals), longest), CLOSED

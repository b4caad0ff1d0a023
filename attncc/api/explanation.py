"""The facts behind `explain`: counted, read off the lowered variant, or looked up in the user's text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from attncc import pipeline
from attncc.analysis import TileTest, depends
from attncc.analysis.bands import Bands, Dense, Range, Tabulated, summarize_mask
from attncc.api.lowering import Call, backend_of, lowered
from attncc.api.running import Running, running
from attncc.api.values import spell
from attncc.emit import reads_of
from attncc.ir import TRUE, AttentionSpec, Expr, Op, Scalar, postorder, print_expr, print_spec
from attncc.passes import lift, simplify
from attncc.report import explain as report
from attncc.runtime import tiles
from attncc.schedule.gluon import ONE_PASS

SKIP, PARTIAL, FULL = 0, 1, 2
MAX_HEADS = 64
AXES = {"b": "batch", "h": "head", "q_idx": "query", "kv_idx": "key"}


def explain_call(call: Call) -> report.Explanation:
    """What this call skips, computes and copies, and why."""
    found, spec = lowered(call), call.program.spec
    runs = running(call, found)
    tiles_of = runs[0].program.schedules.forward if runs else found.schedule
    counter = _Counter(call, tiles_of.tile_q, tiles_of.tile_kv)
    reference = call.options.backend == "reference"
    mask = found.canonical.mask if call.options.refine else TRUE
    counted, bands = counter.count(found.tile_test, mask), _bands(found.canonical.mask)
    return report.Explanation(
        name=spec.name,
        text=print_spec(spec),
        call=_describe(call),
        visit=print_expr(found.tile_test.visit),
        full=print_expr(found.tile_test.full),
        tiles=counted,
        bands=bands,
        statistics=_statistics(found.tile_test),
        table=tuple(_table(found.tile_test, counter, counted if call.options.refine else None)),
        heads=counter.heads(found.tile_test, mask) if "h" in depends(found.canonical.mask) else (),
        conditions=tuple(_conditions(spec, counter)),
        captures=tuple(_captures(call, found)),
        schedule=tuple(dict.fromkeys(reason for each in runs for reason in each.reasons)) or found.schedule.reasons,
        copies=tuple(_copies(call)),
        deterministic=_determinism(reference, runs),
        watched=_watched(call),
        notes=(*_notes(counted, bands, reference), *_approximations(runs)),
    )


class _Counter:
    """Counts tiles of one call, for any test over the same inputs."""

    def __init__(self, call: Call, tile_q: int, tile_kv: int) -> None:
        batch, heads, q_len, _ = call.inputs.q.shape
        self.sizes = tiles.Sizes(batch, heads, q_len, call.inputs.k.shape[2])
        self.tile_q, self.tile_kv = tile_q, tile_kv
        spec = call.program.spec
        self.parameters = {p.name: value for p, value in zip(spec.parameters, call.parameters, strict=True)}
        self.captures = {c.name: tensor.detach() for c, tensor in zip(spec.captures, call.captures, strict=True)}

    def count(self, test: TileTest, mask: Expr = TRUE) -> report.Tiles:
        """All tiles of all batches and heads that differ; with a mask, after a look inside the partial ones."""
        counts = tiles.count_tiles(test, *self.given, mask=mask)
        return report.Tiles(
            self.tile_q, self.tile_kv, counts.total, counts.full, counts.partial, counts.skipped, counts.groups
        )

    @property
    def given(self) -> tuple[tiles.Sizes, int, int, dict[str, int], dict[str, Tensor]]:
        """What tiles follow from beside their test."""
        return self.sizes, self.tile_q, self.tile_kv, self.parameters, self.captures

    def heads(self, test: TileTest, mask: Expr) -> tuple[report.HeadTiles, ...]:
        """The tiles of each head in the first batch; heads with equal counts stand together."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for head in range(min(self.sizes.heads, MAX_HEADS) if self.sizes.batch else 0):
            groups.setdefault(self._one_head(test, head, mask), []).append(head)
        return tuple(report.HeadTiles(tuple(heads), *counts) for counts, heads in groups.items())

    def _one_head(self, test: TileTest, head: int, mask: Expr) -> tuple[int, int, int]:
        visited = full = total = 0
        for row in tiles.tile_rows(test, *self.given, b=0, h=head, mask=mask):
            total += row.classes.numel()
            visited += int((row.classes != SKIP).sum())
            full += int((row.classes == FULL).sum())
        return visited, full, total


def _notes(counted: report.Tiles, bands: report.Bands | None, reference: bool) -> Iterator[str]:
    solved_empty = bands is not None and not bands.ranges
    if counted.total and (solved_empty or not counted.visited):
        yield "warning: no row of this mask has a key, not even q_idx = 0: the output is 0 everywhere, its lse -inf"
    if reference:
        yield "the reference computes every pair: the tiles above are those of the compiled back end"


def _approximations(runs: Sequence[Running]) -> Iterator[str]:
    """What the kernels take from the GPU that is less exact than the reference."""
    if any(each.program.variant.guarded.approximate for each in runs):
        yield "tanh: the GPU's instruction, off by at most 2⁻¹¹ of its result; exact with ATTNCC_FAST_MATH=0"


def _describe(call: Call) -> report.Call:
    q, k, v = call.inputs.q, call.inputs.k, call.inputs.v
    spec = call.program.spec
    return report.Call(
        q=tuple(q.shape),
        k=tuple(k.shape),
        v=tuple(v.shape),
        dtype=str(q.dtype).removeprefix("torch."),
        device=str(q.device),
        scale=call.inputs.scale,
        backend=backend_of(call),
        parameters={p.name: value for p, value in zip(spec.parameters, call.parameters, strict=True)},
    )


def _bands(mask: Expr) -> report.Bands | None:
    """The mask solved for the keys of a tile of queries and the reverse; None where every key is visited."""
    shape = summarize_mask(mask)
    if isinstance(shape, Dense):
        return None
    reason = shape.reason if isinstance(shape, Tabulated) else None
    exact = isinstance(shape, Bands) and shape.exact
    return report.Bands(tuple(map(_band, shape.kv_ranges)), exact, reason, tuple(map(_band, shape.q_ranges)))


def _band(found: Range) -> report.Band:
    full = (None, None) if found.full_start is found.full_stop else (found.full_start, found.full_stop)
    texts = (None if expr is None else print_expr(expr) for expr in full)
    return report.Band(print_expr(found.start), print_expr(found.stop), print_expr(found.when), *texts)


def _statistics(test: TileTest) -> tuple[report.Statistic, ...]:
    return tuple(
        report.Statistic(f"stat{number}", print_expr(statistic.expr), str(statistic.axis))
        for number, statistic in enumerate(test.statistics)
    )


def _table(test: TileTest, counter: _Counter, refined: report.Tiles | None) -> Iterator[str]:
    """How the table of tiles is made, where tiles follow from captured values."""
    reads, _ = reads_of(test)
    if reads:
        yield f"made from {', '.join(reads)}, remembered until one of them changes in place"
        facts = tiles.table_facts(test, *counter.given)
        if facts.ascending is not None:
            share = "all" if facts.ascending == facts.groups else f"{facts.ascending} of {facts.groups}"
            yield f"what it reads along the keys ascends in {share}: there only a row's own neighbourhood is judged"
    if refined is not None:
        before = counter.count(test)
        skipped, full = refined.skipped - before.skipped, refined.full - before.full
        yield f"refine looked inside {before.masked:,} masked tiles: {skipped:,} are empty, {full:,} are full"


def _conditions(spec: AttentionSpec, counter: _Counter) -> Iterator[report.Condition]:
    """The parts of the mask that must all hold, each with what it alone skips."""
    written = {simplify(expr): origin.span for expr, origin in spec.origins.items() if expr.scalar is Scalar.BOOL}
    for term in _conjuncts(lift(spec).mask):
        if term is TRUE:
            continue
        simple = simplify(term)
        span = written.get(simple)
        skips = counter.count(pipeline.solved_test(simple)).skipped
        yield report.Condition(print_expr(term), span.place if span else None, span.text if span else None, skips)


def _conjuncts(mask: Expr) -> list[Expr]:
    terms: list[Expr] = []
    pending = [mask]
    while pending:
        expr = pending.pop()
        if expr.op is Op.AND:
            pending += reversed(expr.args)
        elif expr not in terms:
            terms.append(expr)
    return terms


def _captures(call: Call, found: pipeline.Lowered) -> Iterator[report.CaptureUse]:
    spec = call.program.spec
    for capture, tensor in zip(spec.captures, call.captures, strict=True):
        in_score, in_mask = (_loads(root, capture.name) for root in (found.canonical.score, found.canonical.mask))
        used = [name for name, loads in (("score", in_score), ("mask", in_mask)) if loads]
        yield report.CaptureUse(
            name=capture.name,
            declared=spell(capture),
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            uses=f"used in {' and '.join(used)}" if used else "not used",
            gradient=_gradient(tensor, in_score),
        )


def _loads(root: Expr, name: str) -> list[Expr]:
    return [expr for expr in postorder(root) if expr.op is Op.LOAD and expr.value == name]


def _gradient(tensor: Tensor, loads: list[Expr]) -> str:
    if not tensor.is_floating_point():
        return "none: it holds no floats"
    if not loads:
        return "none: a mask is piecewise constant"
    if not tensor.requires_grad:
        return "not asked for"
    axes = {axis for load in loads for index in load.args for axis in depends(index)}
    if {"q_idx", "kv_idx"} <= axes:
        return "what each pair adds is summed at its index, tile by tile in a fixed order"
    if not axes:
        return "one sum over all pairs"
    own, over = ([name for axis, name in AXES.items() if (axis in axes) is owned] for owned in (True, False))
    return f"one sum for each {' and '.join(own)}, over every {' and '.join(over)}"


def _copies(call: Call) -> Iterator[str]:
    for name, tensor in zip(("q", "k", "v"), call.tensors, strict=False):
        if tensor.numel() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            yield f"{name} in each call, because its last dimension is not contiguous (strides {tensor.stride()})"


def _determinism(reference: bool, runs: Sequence[Running]) -> str:
    if reference:
        return "as torch's own dense operations are"
    if any(ONE_PASS in each.program.passes for each in runs):
        return (
            "all but the gradient of q, to which programs add in any order; deterministic=True takes two passes, whose "
            "results are summed in one fixed order"
        )
    return "yes: every result is summed in one fixed order"


def _watched(call: Call) -> tuple[str, ...]:
    """What keeps the functions from being recognised, so that each call traces them again."""
    traced = call.program.traced
    return () if traced is None or traced.opaque is None else (traced.opaque,)

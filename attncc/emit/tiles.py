"""The classification of tiles by itself, as a function that walks the rows: for reports and for counting."""

from __future__ import annotations

import hashlib
from functools import cache

from attncc.analysis.tiles import BOX_NAMES, TileTest
from attncc.emit.draft import Draft
from attncc.emit.render import KernelSource, tidy
from attncc.emit.templates import fill
from attncc.ir import AttentionSpec, Capture, Op, Parameter, postorder

TEMPLATE = "torch/tiles"


@cache
def render_tile_test(test: TileTest, captures: tuple[tuple[str, int, str], ...]) -> KernelSource:
    """The function `rows(sizes, tile_q, tile_kv, parameters, captures, b, h, device)` of a test.

    `captures` are (name, rank, dtype) of what a call has; the function takes those named by `reads_of`, in that order.
    """
    roots = (test.visit, test.full, *(statistic.expr for statistic in test.statistics))
    kinds = {str(e.value): e.scalar for e in postorder(*roots) if e.op is Op.LOAD}
    tables, parameters = reads_of(test)
    given = {name: (rank, dtype) for name, rank, dtype in captures}
    spec = AttentionSpec(
        captures=tuple(Capture(name, kinds[name], ("_",) * given[name][0]) for name in tables),
        parameters=tuple(Parameter(name, 0) for name in parameters),
    )
    draft = Draft(TEMPLATE, spec, test, [given[name][1] for name in tables], "float64", {}, readable=True)
    text = tidy(fill(TEMPLATE, _values(draft)))
    return KernelSource("tiles", text, hashlib.sha256(text.encode()).hexdigest())


@cache
def reads_of(test: TileTest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The captures and the parameters that a test reads, each in alphabetical order."""
    nodes = postorder(test.visit, test.full, *(statistic.expr for statistic in test.statistics))
    own = {*BOX_NAMES, *(f"stat{s.number}_{what}" for s in test.statistics for what in ("min", "max", "nan"))}
    tables = {str(e.value) for e in nodes if e.op is Op.LOAD}
    return tuple(sorted(tables)), tuple(sorted({str(e.value) for e in nodes if e.op is Op.PARAM} - own))


def _values(draft: Draft) -> dict[str, object]:
    visit, full = draft.tile_test()
    lines = draft.printer.lines
    used = draft.mentions(())
    helpers = [name for name in ("block_bounds", "gather", "hold") if name in used]
    once = [*draft.used_setup(used), *draft.indices(used, "kv_min", "kv_max", "q_all", "kv_all")]
    return {
        "visit": visit,
        "full": full,
        "imports": [f"from attncc.runtime.steps import {', '.join(helpers)}"] if helpers else [],
        "once": [*once, *lines.get("setup", []), *draft.group_lines()],
        "per_row": [*draft.indices(used, "q_min", "q_max"), *lines.get("test", [])],
    }

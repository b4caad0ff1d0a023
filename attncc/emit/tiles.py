"""The classification of tiles as a module of its own: for reports and for counting."""

from __future__ import annotations

import hashlib
from functools import cache

from attncc.analysis.tiles import BOX_NAMES, TileTest
from attncc.emit.render import KernelSource
from attncc.emit.rules import imports, roots_of, tile_function
from attncc.ir import TRUE, AttentionSpec, Capture, Expr, Op, Parameter, postorder


@cache
def render_tile_test(test: TileTest, captures: tuple[tuple[str, int, str], ...], mask: Expr = TRUE) -> KernelSource:
    """The function `tiles(sizes, captures, parameters, b, h)` of a test; with a mask it can look into tiles.

    `captures` are (name, rank, dtype) of what a call has; the function takes those named by `reads_of`, in that order.
    """
    kinds = {str(e.value): e.scalar for e in postorder(*roots_of(test), mask) if e.op is Op.LOAD}
    tables, parameters = reads_of(test, mask)
    given = {name: (rank, dtype) for name, rank, dtype in captures}
    spec = AttentionSpec(
        mask=mask,
        captures=tuple(Capture(name, kinds[name], ("_",) * given[name][0]) for name in tables),
        parameters=tuple(Parameter(name, 0) for name in parameters),
    )
    dtypes = [given[name][1] for name in tables]
    lines = tile_function(spec, test, dtypes, "float64", {}, readable=True, refine=mask is not TRUE)
    head = [
        '"""The classes of the tiles of a mask."""',
        "",
        "import torch",
        "",
        *imports(lines),
        "",
        "FLOAT = torch.float64",
    ]
    text = "\n".join([*head, 'NEG_INF = float("-inf")', "", "", *lines, ""])
    return KernelSource("tiles", text, hashlib.sha256(text.encode()).hexdigest())


@cache
def reads_of(test: TileTest, mask: Expr = TRUE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The captures and the parameters that a test and a mask read, each in alphabetical order."""
    nodes = postorder(*roots_of(test), mask)
    own = {*BOX_NAMES, *(f"stat{s.number}_{what}" for s in test.statistics for what in ("min", "max", "nan"))}
    tables = {str(e.value) for e in nodes if e.op is Op.LOAD}
    return tuple(sorted(tables)), tuple(sorted({str(e.value) for e in nodes if e.op is Op.PARAM} - own))

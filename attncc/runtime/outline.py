"""What running the kernels of a program needs to know of it, as plain values that the cache can hold.

A process that finds these beside the kernels needs neither the analysis nor the templates that they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from attncc.runtime.steps import hold
from attncc.schedule.target import Gradients

if TYPE_CHECKING:  # a program that is found in the cache needs no emitter
    from attncc.analysis.statistics import Statistic
    from attncc.emit.triton.kernels import Variant
    from attncc.emit.triton.program import TritonProgram

#: The kernels whose programs own keys; the others own queries.
OWN_KEYS: Final = ("backward_kv", "backward")
#: The positions that a plain read may have for an index, and their places in [B, Hq, Lq, Lkv].
POSITIONS: Final = {"b": 0, "h": 1, "q_idx": 2, "kv_idx": 3}
#: What a statistic is computed in; float64 tensors stay as they are.
WANTED: Final = ("bool", "int64", "float32")


@dataclass(frozen=True, slots=True)
class Read:
    """A captured tensor at positions: its number, what indexes each dimension, and the dtype that comes out."""

    capture: int
    index: tuple[str | int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A statistic of captured tensors along an axis (`q` or `kv`), by its number; `read` where it is a plain read."""

    number: int
    axis: str
    read: Read | None = None


@dataclass(frozen=True, slots=True)
class Outline:
    """A program without its expressions: what is differentiated, how many sums each pass makes for captured tensors,
    and the tables that it fills.

    `lists` are the passes that read tables; their rows differ `by_batch` and `by_head`. `hosted` says that torch
    computes more around the kernels than plain reads.
    """

    aligned: bool
    head_dim: int
    gradients: Gradients | None = None
    rows: int = 0
    columns: int = 0
    diagonals: int = 0
    pairs: int = 0
    loads: bool = False
    lists: tuple[str, ...] = ()
    by_batch: bool = False
    by_head: bool = False
    reads_captures: bool = False
    marks: tuple[Mark, ...] = ()

    @property
    def hosted(self) -> bool:
        """Whether torch computes more around the kernels than plain reads."""
        return self.loads or any(mark.read is None for mark in self.marks)


def outline_of(program: TritonProgram) -> Outline:
    """What running a program needs to know of it."""
    from attncc.emit.triton.visits import table_axes  # late: what is found in the cache needs no emitter

    variant = program.variant
    by_batch, by_head = table_axes(variant.test)
    lists = next(iter(program.lists.values()), None)
    reads = lists is not None and any(role.kind in ("capture", "statistic_min") for role in lists.roles)
    derivatives = variant.derivatives
    return Outline(
        variant.aligned,
        variant.problem.head_dim,
        None if derivatives is None else derivatives.gradients,
        rows=len(variant.row_sums),
        columns=len(variant.column_sums),
        diagonals=len(variant.diagonal_sums),
        pairs=len(variant.pair_sums),
        loads=bool(variant.loads),
        lists=tuple(program.lists),
        by_batch=by_batch,
        by_head=by_head,
        reads_captures=reads,
        marks=tuple(Mark(s.number, s.axis, _read_of(s, variant)) for s in variant.test.statistics),
    )


def _read_of(statistic: Statistic, variant: Variant) -> Read | None:
    """The plain read that a statistic is, if it is one."""
    from attncc.ir import Op  # late, as above

    expr, index = statistic.expr, []
    if expr.op is not Op.LOAD:
        return None
    for arg in expr.args:
        plain = arg.op is Op.CONST and isinstance(arg.value, int)
        if not plain and not (arg.op is Op.INPUT and arg.value in POSITIONS):
            return None
        index.append(arg.value)
    names = [capture.name for capture in variant.spec.captures]
    number = names.index(str(expr.value))
    have, wanted = variant.problem.capture_dtypes[number], WANTED[expr.scalar]
    return Read(number, tuple(index), have if have == "float64" else wanted)  # type: ignore[arg-type]  # as checked


def read_marks(
    marks: Sequence[Mark], captures: Sequence[Tensor], parameters: Sequence[int], *rest: Any
) -> list[Tensor]:
    """The values of plain reads at every position, [B, Hq, Lq, 1] or [B, Hq, 1, Lkv] once broadcast; `rest` are batch,
    heads, the two lengths and the device."""
    *sizes, device = rest
    found = []
    for mark in marks:
        assert mark.read is not None
        table = captures[mark.read.capture]
        index: list[Any] = []
        for dim, place in enumerate(mark.read.index):
            if isinstance(place, int):
                index.append(place)
                continue
            line = torch.arange(sizes[POSITIONS[place]], device=device)
            index.append(hold(line.view(-1, *[1] * (3 - POSITIONS[place])), table, dim))
        value = table[tuple(index)] if index else table
        found.append(value.to(getattr(torch, mark.read.dtype)))
    return found


def to_plain(outline: Outline) -> dict[str, Any]:
    """An outline as JSON holds it."""
    plain: dict[str, Any] = {name: getattr(outline, name) for name in _PLAIN}
    g = outline.gradients
    marks = [
        [m.number, m.axis, None if m.read is None else [m.read.capture, list(m.read.index), m.read.dtype]]
        for m in outline.marks
    ]
    gradients = None if g is None else [g.q, g.k, g.v, list(g.captures)]
    return plain | {"gradients": gradients, "marks": marks, "lists": list(outline.lists)}


def from_plain(plain: Mapping[str, Any]) -> Outline:
    """The outline that JSON holds."""
    g = plain["gradients"]
    marks = [Mark(n, axis, None if r is None else Read(r[0], tuple(r[1]), r[2])) for n, axis, r in plain["marks"]]
    return Outline(
        **{name: plain[name] for name in _PLAIN},
        gradients=None if g is None else Gradients(g[0], g[1], g[2], tuple(g[3])),
        marks=tuple(marks),
        lists=tuple(plain["lists"]),
    )


_PLAIN: Final = (
    "aligned",
    "head_dim",
    "rows",
    "columns",
    "diagonals",
    "pairs",
    "loads",
    "by_batch",
    "by_head",
    "reads_captures",
)

"""From a spec and a schedule to everything that a Triton template asks for.

A `Draft` holds what the kernels of one variant share: names, captured tensors, and the words for reading them. The
plans are plain dictionaries of texts and lines, one for each template. Drafts are made twice for each kernel: once with
the user's names, to be read, once with canonical names, to be compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.emit.gradients import Derivatives
from attncc.emit.kernel import Argument
from attncc.emit.names import Namer
from attncc.emit.printer import Line
from attncc.emit.templates import identifiers
from attncc.emit.triton.expressions import (
    ONCE,
    SCORE_LOG2,
    Captures,
    TritonPrinter,
    body,
    captures_of,
    index_box,
    outside,
    pointer_type,
    read_helper,
    rows,
    to_base_2,
)
from attncc.emit.triton.spelling import HELPERS
from attncc.emit.triton.visits import Visits
from attncc.ir import SCORE, AttentionSpec, Expr, Op, apply, const, postorder
from attncc.schedule import Problem, loads_of

#: Names that every kernel uses beside those of its template.
FIXED_NAMES: Final = ("score", "score_log2", "q_idx", "kv_idx", "b", "h", "q_min", "q_max", "kv_min", "kv_max", "tl")
LEAVES: Final = {
    name: name
    for name in ("score", "b", "h", "q_idx", "kv_idx", "batch", "heads", "q_len", "kv_len")
    + ("q_min", "q_max", "kv_min", "kv_max")
}


@dataclass(frozen=True, slots=True)
class TritonSchedule:
    """How one kernel runs on a GPU; `reasons` say why."""

    tile_q: int
    tile_kv: int
    num_warps: int
    num_stages: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """What a run-time argument of a kernel is: `kind` with the position of a capture, its dimension, or a name."""

    kind: str
    index: int = 0
    dim: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A template filled with what it asks for, and the arguments of its kernel, each with its role."""

    values: Mapping[str, object]
    arguments: tuple[tuple[Argument, Role], ...]


class Draft:
    """What one kernel says, in the making."""

    def __init__(self, spec: AttentionSpec, problem: Problem, template: str, *, readable: bool) -> None:
        self.spec, self.problem, self.readable = spec, problem, readable
        namer = Namer({*identifiers(template), *FIXED_NAMES, *HELPERS, *(f"read{rank}" for rank in range(9))})
        self.names = {c.name: namer.take(c.name if readable else f"capture{i}") for i, c in enumerate(spec.captures)}
        self.parameters = {
            p.name: namer.take(p.name if readable else f"parameter{i}") for i, p in enumerate(spec.parameters)
        }
        dtypes = dict(zip((c.name for c in spec.captures), problem.capture_dtypes, strict=True))
        loads = loads_of(spec)
        self.unproven = [load for i, load in enumerate(loads) if i not in problem.in_bounds and load.args]
        self.captures = Captures(self.names, dtypes, frozenset(loads) - set(self.unproven), index_box(spec))
        origins = spec.origins if readable else {}
        self.printer = TritonPrinter(namer, {**LEAVES, **self.parameters, **self.sizes()}, self.captures, origins)

    def sizes(self) -> dict[str, str]:
        """The parameters `{capture}_size_{dim}` that guards compare indices with."""
        return {
            f"{c.name}_size_{d}": f"{self.names[c.name]}_size_{d}" for c in self.spec.captures for d in range(c.rank)
        }

    def capture_arguments(self, *roots: Expr) -> list[tuple[Argument, Role]]:
        """Captures and parameters that the expressions use: pointers, strides, sizes where reads are guarded."""
        made: list[tuple[Argument, Role]] = []
        order = {c.name: i for i, c in enumerate(self.spec.captures)}
        guarded = {str(load.value) for load in self.unproven} | self.maybe_negative(roots)
        for capture in captures_of(self.spec, *roots):
            name, i = self.names[capture.name], order[capture.name]
            type_ = pointer_type(self.captures.dtypes[capture.name])
            made.append((Argument(f"{name}_ptr", type_), Role("capture", i)))
            strides = range(capture.rank - 1)
            made += [(Argument(f"{name}_stride_{d}", "i32"), Role("capture_stride", i, d)) for d in strides]
            if capture.name in guarded:
                sizes = range(capture.rank)
                made += [(Argument(f"{name}_size_{d}", "i32"), Role("capture_size", i, d)) for d in sizes]
        used = {str(e.value) for e in postorder(*roots) if e.op is Op.PARAM}
        for i, parameter in enumerate(self.spec.parameters):
            if parameter.name in used:
                made.append((Argument(self.parameters[parameter.name], "i32"), Role("parameter", i)))
        return made

    def maybe_negative(self, roots: Sequence[Expr]) -> set[str]:
        """Captures with a proven read whose index may still be negative, and so needs the size to wrap."""
        loads = [e for e in postorder(*roots) if e.op is Op.LOAD and e.args and e is not SCORE_LOG2]
        return {str(load.value) for load in loads if "size_" in self.captures.read(load, _blank(load))}

    def helpers(self, lines: Iterable[object]) -> list[str]:
        """The functions that the lines call, and those that these call, as lines of their own."""
        text = "\n".join(map(str, lines))
        sources = {f"read{rank}": read_helper(rank) for rank in sorted(self.captures.ranks)} | HELPERS
        used = [source for name, source in sources.items() if f"{name}(" in text]
        return [line for source in used for line in ("\n" + source.strip("\n")).split("\n") or ()]


def _blank(load: Expr) -> list[_Any]:
    return [_Any() for _ in load.args]


class _Any:
    text = "0"

    def at(self, least: object) -> str:
        return "0"


def loop_values(
    draft: Draft, place: str, owned: str, tiles: Visits, derivatives: Derivatives | None, loads: Sequence[Expr]
) -> dict[str, object]:
    """What one loop of a template is told. `loads` are the reads whose gradients this kernel sums."""
    masked = place == "partial"
    printer, spec = draft.printer, draft.spec
    chain = (ONCE, rows(owned), body(place))
    exponent = to_base_2(spec.score)
    guard = outside(draft.unproven)
    if guard is not None:
        exponent = apply(Op.WHERE, guard, const(float("nan")), exponent)
    shares = {} if derivatives is None else {load: derivatives.by_load[load] for load in loads}
    flows = () if derivatives is None else (derivatives.by_score,)
    named = [spec.mask] if masked and spec.mask.op is not Op.CONST else []
    used = postorder(exponent, *shares.values(), *flows)
    if SCORE_LOG2 in used and spec.score is not SCORE:
        printer.say(chain[-1], "score_log2 = dot * scale_log2")
    if SCORE in used:
        printer.say(chain[-1], "score = dot * scale")
    roots = () if spec.score is SCORE and guard is None else (exponent,)
    texts = printer.print(chain, *roots, *shares.values(), *flows, named=named)
    visible = texts[spec.mask].text if named else ""
    values: dict[str, object] = {
        "masked": masked,
        "exponent": texts[exponent].text if roots else "",
        "visible": f"in_range & {visible}" if visible else "in_range",
        "title": "tiles that the mask cuts, or that reach past the end"
        if masked
        else "tiles that are visible as a whole",
        "count": tiles.partial_count if masked else tiles.full_count,
        "start": tiles.partial_start if masked else tiles.full_start,
    }
    if derivatives is not None:
        values |= gradient_values(draft, values, derivatives.by_score, shares, texts)
    return values | {"body": printer.lines[place]}


def gradient_values(
    draft: Draft,
    loop: Mapping[str, object],
    by_score: Expr,
    shares: Mapping[Expr, Expr],
    texts: Mapping[Expr, object],
) -> dict[str, object]:
    """The lines behind the gradient of the modified score: that of the dot products, and sums for captures."""
    lines: list[Line] = []

    def product(derivative: Expr) -> str:
        if derivative is const(1.0):
            return "grad_score"
        text = f"grad_score * ({texts[derivative].text})"  # type: ignore[attr-defined]  # a Text
        return f"tl.where({loop['visible']}, {text}, 0.0)" if loop["masked"] else text

    for i, derivative in enumerate(shares.values()):
        lines.append(Line(f"grad_sum{i} += tl.sum({product(derivative)}, {{axis}})"))
    if by_score is const(1.0):
        return {"gradients": lines, "grad_dot": "grad_score"}
    return {"gradients": [*lines, Line(f"grad_dot = {product(by_score)}")], "grad_dot": "grad_dot"}

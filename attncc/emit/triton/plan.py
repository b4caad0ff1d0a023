"""From a spec and a schedule to everything that a Triton template asks for.

A `Draft` holds what the kernels of one variant share: names, captured tensors, and the words for reading them. The
plans are plain dictionaries of texts and lines, one for each template. Drafts are made twice for each kernel: once with
the user's names, to be read, once with canonical names, to be compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from attncc.emit.gradients import Derivatives, is_fragile
from attncc.emit.kernel import Argument
from attncc.emit.names import Namer
from attncc.emit.printer import Line, Place, Text
from attncc.emit.render import escaped
from attncc.emit.spelling import LOOSEST
from attncc.emit.templates import identifiers
from attncc.emit.triton.expressions import (
    ONCE,
    SCORE_LOG2,
    Captures,
    TritonPrinter,
    body,
    captures_of,
    index_box,
    pointer_type,
    read_helper,
    rows,
    to_base_2,
)
from attncc.emit.triton.spelling import FAST_HELPERS, HELPERS, SHORT_HELPERS
from attncc.emit.triton.visits import KEYS, QUERIES, Visits
from attncc.ir import FALSE, SCORE, Expr, Op, apply, const, postorder
from attncc.ir.syntax import Level
from attncc.schedule import Problem
from attncc.schedule.guards import Guarded, size_name
from attncc.schedule.triton import AnySchedule, head_tile

#: Names that every kernel uses beside those of its template.
FIXED_NAMES: Final = (
    "LOG2E",
    "score",
    "score_log2",
    "in_head",
    "in_value",
    "q_idx",
    "kv_idx",
    "b",
    "h",
    "q_min",
    "q_max",
    "kv_min",
    "kv_max",
    "tl",
    "sigmoid",  # a function of Gluon kernels
    # what finds tiles, see visits
    *("partial_count", "full_count", "total", "visited", "step", "tile_index", "table_row"),
    *("partial_tiles", "full_tiles", "kv_row", "q_row", "in_range"),
    *("next_step", "next_index", "before_step", "before_index", "last_step"),
    *("row_max", "new_max", "shift"),  # of a softmax, see attncc.emit.gluon.softmax
)
INPUT_NAMES: Final = ("score", "b", "h", "q_idx", "kv_idx", "batch", "heads", "q_len", "kv_len")
LEAVES: Final = {name: name for name in (*INPUT_NAMES, "q_min", "q_max", "kv_min", "kv_max")}


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

    def __init__(self, guarded: Guarded, problem: Problem, template: str, *, readable: bool) -> None:
        spec = guarded.spec
        self.spec, self.guarded, self.problem, self.readable = spec, guarded, problem, readable
        namer = Namer(
            {*identifiers(template), *FIXED_NAMES, *HELPERS, *FAST_HELPERS, *(f"read{rank}" for rank in range(9))}
        )
        self.names = {c.name: namer.take(c.name if readable else f"capture{i}") for i, c in enumerate(spec.captures)}
        self.parameters = {
            p.name: namer.take(p.name if readable else f"parameter{i}") for i, p in enumerate(spec.parameters)
        }
        dtypes = dict(zip((c.name for c in spec.captures), problem.capture_dtypes, strict=True))
        self.captures = Captures(self.names, dtypes, guarded.unproven, guarded.plain, index_box(spec))
        origins = spec.origins if readable else {}
        leaves = {**LEAVES, **self.parameters, **self.sizes()}
        self.printer = TritonPrinter(namer, leaves, self.captures, origins, guarded.approximate)
        self.printer.tables = {} if readable else self.names
        self.scales: dict[Expr, str] = {}  # what multiplies dot products in the place of score and a number

    def sizes(self) -> dict[str, str]:
        """What guards call the sizes of captures, and what they are called in the kernel."""
        return {
            size_name(c.name, d): f"{self.names[c.name]}_size_{d}" for c in self.spec.captures for d in range(c.rank)
        }

    def capture_arguments(self, *roots: Expr) -> list[tuple[Argument, Role]]:
        """Captures and parameters that the expressions use: pointers, strides, sizes where reads are guarded."""
        made: list[tuple[Argument, Role]] = []
        order = {c.name: i for i, c in enumerate(self.spec.captures)}
        reads = [e for e in postorder(*roots) if e.op is Op.LOAD and e.args and e is not SCORE_LOG2]
        used = {str(e.value) for e in postorder(*roots) if e.op is Op.PARAM}
        guarded = {str(load.value) for load in reads if not self.captures.is_plain(load)}
        guarded |= {c.name for c in self.spec.captures if used & {size_name(c.name, d) for d in range(c.rank)}}
        read = captures_of(self.spec, *roots)
        for capture in (each for each in self.spec.captures if each in read or each.name in guarded):
            name, i = self.names[capture.name], order[capture.name]
            if capture in read:
                type_ = pointer_type(self.captures.dtypes[capture.name])
                made.append((Argument(f"{name}_ptr", type_), Role("capture", i)))
                strides = range(capture.rank - 1)
                made += [(Argument(f"{name}_stride_{d}", "i32"), Role("capture_stride", i, d)) for d in strides]
            if capture.name in guarded:
                sizes = range(capture.rank)
                made += [(Argument(f"{name}_size_{d}", "i32"), Role("capture_size", i, d)) for d in sizes]
        for i, parameter in enumerate(self.spec.parameters):
            if parameter.name in used:
                made.append((Argument(self.parameters[parameter.name], "i32"), Role("parameter", i)))
        return made

    def helpers(self, lines: Iterable[object], further: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """The functions that the lines call, and those that these call, as lines of their own; `further` are a
        language's own, by name."""
        text = "\n".join(map(str, lines))
        sources = {f"read{rank}": read_helper(rank) for rank in sorted(self.captures.ranks)} | HELPERS | dict(further)
        sources |= (SHORT_HELPERS if self.problem.dtype in ("bfloat16", "float16") else {}) | FAST_HELPERS
        used = [source for name, source in sources.items() if re.search(rf"\b{name}\(", text)]
        return [line for source in used for line in ("\n" + source.strip("\n")).split("\n") or ()]


@dataclass(frozen=True, slots=True)
class Loops:
    """What the two loops of a kernel are told, and what they share."""

    loops: tuple[Mapping[str, object], ...]
    roots: tuple[Expr, ...]  # every expression that was printed


#: How a kernel takes its share of the gradient of a captured read: number {0}, text of the share {1}.
SUM_ROWS: Final = "grad_sum{0} += tl.sum({1}, 1)"
SUM_TILES: Final = "grad_sum{0} += {1}"
STORE_PAIRS: Final = "tl.store(grad_sum{0}_ptr + pair_at, {1}, mask=stored)"


def draw_loops(
    draft: Draft,
    owned: str,
    tiles: Visits,
    derivatives: Derivatives | None,
    sums: Sequence[Expr],
    take: str = SUM_ROWS,
) -> Loops:
    """Print both loops of a kernel that owns `owned`. `sums` are the reads of captures whose gradients it takes."""
    spec = draft.spec
    exponent = guarded_exponent(draft)
    by_load = {load: derivatives.by_load[load] for load in sums} if derivatives is not None else {}
    flows = (derivatives.by_score,) if derivatives is not None else ()
    roots = (exponent, *by_load.values(), *flows)
    flows = () if take is not SUM_ROWS else flows
    loops = tuple(_draw_loop(draft, owned, masked, tiles, exponent, flows, by_load, take) for masked in (False, True))
    return Loops(loops, (*roots, spec.mask))


def guarded_exponent(draft: Draft) -> Expr:
    """log2(e) * score, and NaN where the pair depends on a read beyond a captured tensor."""
    exponent = to_base_2(draft.spec.score)
    beyond = draft.guarded.beyond
    return exponent if beyond is FALSE else apply(Op.WHERE, beyond, const(float("nan")), exponent)


def _draw_loop(
    draft: Draft,
    owned: str,
    masked: bool,
    tiles: Visits,
    exponent: Expr,
    flows: Sequence[Expr],
    by_load: Mapping[Expr, Expr],
    take: str,
) -> dict[str, object]:
    printer, spec = draft.printer, draft.spec
    place = body("partial" if masked else "full")
    chain = (ONCE, rows(owned), place)
    visible = [spec.mask] if masked and spec.mask.op is not Op.CONST else []
    outer = (exponent, *by_load.values(), *flows)
    used = postorder(*outer)
    if SCORE_LOG2 in used and exponent is not SCORE_LOG2:
        printer.say(place, "score_log2 = dot * scale_log2")
    scaled = _scale_arguments(draft, place, used)
    if SCORE in outer or any(SCORE in e.args for e in used if e not in scaled):
        printer.say(place, "score = dot * scale")
    roots = () if exponent is SCORE_LOG2 else (exponent,)
    texts = printer.print(chain, *roots, *by_load.values(), *flows, named=visible)
    where = " & ".join(["in_range", *(texts[mask].text for mask in visible)])
    singles = {root: _single(draft, root, texts[root], Level.UNARY) for root in (*by_load.values(), *flows)}
    gradients, grad_dot = _gradients(flows, by_load, singles, masked, take)
    return {
        "masked": masked,
        "title": PARTIAL_TITLE if masked else FULL_TITLE,
        "count": tiles.partial_count if masked else tiles.full_count,
        **tiles.steps(KEYS if owned == "q_idx" else QUERIES, masked),
        "exponent": _tile(draft, exponent, texts[exponent]) if roots else "",
        "visible": where,
        "body": printer.lines[place.name],
        "gradients": gradients,
        "grad_dot": grad_dot,
    }


def _scale_arguments(draft: Draft, place: Place, used: Sequence[Expr]) -> set[Expr]:
    """The arguments of approximate functions that are the score times or by a number, which the scale then takes."""
    approximate, printer = draft.guarded.approximate, draft.printer
    found = {
        arg
        for arg in (function.args[0] for function in used if function in approximate)
        if arg.op in (Op.MUL, Op.DIV) and arg.args[0] is SCORE and arg.args[1].op is Op.CONST
        if all(user in approximate for user in used if arg in user.args)
    }
    for arg in (each for each in used if each in found):
        if arg not in draft.scales:
            draft.scales[arg] = printer.namer.take("inner_scale")
            sign = "*" if arg.op is Op.MUL else "/"
            number = printer.spelling.number(arg.args[1].value)  # type: ignore[arg-type]  # of a constant
            printer.say(ONCE, f"{draft.scales[arg]} = scale {sign} {number}")
        printer.bound[place.name, arg] = Text(f"dot * {draft.scales[arg]}", Level.PRODUCT)
    return found


def _tile(draft: Draft, exponent: Expr, text: Text) -> str:
    """The text of an exponent, as wide as a tile and a float also where it does not depend on the products."""
    if {SCORE, SCORE_LOG2} & {*postorder(exponent)}:
        return _single(draft, exponent, text)
    return f"dot * 0.0 + {_single(draft, exponent, text, Level.ATOM)}"


def _single(draft: Draft, expr: Expr, text: Text, least: Level = LOOSEST) -> str:
    """The text of a Float where float32 is needed: what a float64 capture takes part in is rounded."""
    loads = (str(e.value) for e in postorder(expr) if e.op is Op.LOAD and e is not SCORE_LOG2)
    if any(draft.captures.dtypes[name] == "float64" for name in loads):
        return f"{text.at(Level.ATOM)}.to(tl.float32)"
    return text.at(least)


def _gradients(
    flows: Sequence[Expr],
    by_load: Mapping[Expr, Expr],
    texts: Mapping[Expr, str],
    masked: bool,
    take: str,
) -> tuple[list[Line], str]:
    """The lines behind the gradient of the modified score, and the name of that of the dot products.

    At a hidden pair the weight is 0 and a derivative may be infinite, so products with one are selected.
    """

    def product(derivative: Expr) -> str:
        if derivative is const(1.0):
            return "grad_score"
        text = f"grad_score * {texts[derivative]}"
        guarded = derivative.op is not Op.CONST and (masked or is_fragile(derivative))
        return f"tl.where(weight != 0.0, {text}, 0.0)" if guarded else text

    lines = [Line(take.format(i, product(share))) for i, share in enumerate(by_load.values())]
    if not flows or flows[0] is const(1.0):
        return lines, "grad_score"
    return [*lines, Line(f"grad_dot = {product(flows[0])}")], "grad_dot"


PARTIAL_TITLE: Final = "tiles that the mask cuts, or that reach past the end"
FULL_TITLE: Final = "tiles that are visible as a whole"


def common_values(draft: Draft, schedule: AnySchedule, docstring: Sequence[str]) -> dict[str, object]:
    """What every template asks for."""
    problem = draft.problem
    return {
        "docstring": quoted(docstring) if draft.readable else (),
        "head_masks": head_masks(problem),
        "tile_q": schedule.tile_q,
        "tile_kv": schedule.tile_kv,
        "head_dim": problem.head_dim,
        "value_dim": problem.value_dim,
        "head_tile": head_tile(problem.head_dim),
        "value_tile": head_tile(problem.value_dim),
        "precision": '"tf32"' if problem.tf32 else '"ieee"',  # of products of float32; others are exact
    }


def quoted(lines: Sequence[str]) -> list[str]:
    """The lines of a docstring, with its quotes."""
    first, *rest = escaped(lines)
    return [f'"""{first}', *rest, '"""'] if rest else [f'"""{first}"""']


def load_lines(problem: Problem, masked: bool, wide: bool, shares_rows: bool = False) -> dict[str, list[str]]:
    """The loads of a step. Rows past the end are guarded where the loop may reach there, and columns past the head."""
    head, value = (padded(problem.head_dim), "in_head"), (padded(problem.value_dim), "in_value")
    keys, queries = "kv_row < kv_len", "q_row < q_len"
    key, query = (f"{row}[:, None]{'.to(tl.int64)' if wide else ''}" for row in ("kv_row", "q_row"))
    rows = [("lse2", 'float("inf")'), *([("share", "1.0")] if shares_rows else []), ("delta", "0.0")]
    guard = f"mask={queries}, other=" if masked else ""
    of_rows = [
        f"{name} = tl.load({name}_ptr + head_rows + q_row{f', {guard}{other}' if masked else ''})[None, :]"
        for name, other in rows
    ]
    return {
        "load_k": [_load("k", key, keys if masked else None, *head)],
        "load_v": [_load("v", key, keys if masked else None, *value)],
        "load_q": [_load("q", query, queries if masked else None, *head)],
        "load_do": [_load("do", query, queries if masked else None, *value)],
        "load_rows": of_rows,
        "load_lse": of_rows[:-1],
        "load_delta": of_rows[-1:],
    }


def _load(name: str, position: str, row: str | None, pad: bool, dim: str) -> str:
    terms = [f"({row})[:, None]"] if row else []
    terms += [dim] if pad else []
    guard = f", mask={' & '.join(terms)}, other=0.0" if terms else ""
    dims = "dims" if name in ("q", "k") else "value_dims"
    return f"{name}_tile = tl.load({name}_base + {position} * {name}_stride_n + {dims}[None, :]{guard})"


def padded(dim: int) -> bool:
    """Whether tiles are wider than the head."""
    return head_tile(dim) != dim


def head_masks(problem: Problem) -> list[str]:
    """The columns of a tile that lie inside the head, where tiles are wider."""
    rows = [("in_head", "dims < HEAD_DIM", problem.head_dim), ("in_value", "value_dims < VALUE_DIM", problem.value_dim)]
    return [f"{name} = ({inside})[None, :]" for name, inside, dim in rows if padded(dim)]


def edge_mask(row: str, length: str, columns: str, dim: int) -> str:
    """The mask of a tile that a program loads or stores once."""
    return f"({row} < {length})[:, None]" + (f" & {columns}" if padded(dim) else "")


STRIDES: Final = ("b", "h", "n")


def stride_arguments(names: Sequence[str], aligned: bool) -> list[tuple[Argument, Role]]:
    """The strides of tensors, three each: 64 bits for sequences and heads, 32 for positions."""
    made: list[tuple[Argument, Role]] = []
    for name in names:
        for stride in STRIDES:
            type_ = "i32" if stride == "n" else "i64"
            made.append(
                (Argument(f"{name}_stride_{stride}", type_, divisible=aligned), Role(f"{name}_stride_{stride}"))
            )
    return made


def pointer(name: str, type_: str, aligned: bool = True) -> tuple[Argument, Role]:
    """A tensor of the kernel itself."""
    return Argument(name, type_, divisible=aligned), Role(name)


def size(name: str) -> tuple[Argument, Role]:
    """A size, in 32 bits."""
    return Argument(name, "i32"), Role(name)


def argument_lines(arguments: Sequence[tuple[Argument, Role]]) -> list[str]:
    """Parameters as a template prints them."""
    return [f"{argument.name}," for argument, _ in arguments]

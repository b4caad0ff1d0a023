"""The kernels of a variant as they are built and as they are read.

What is compiled carries canonical names, so that renaming a variable builds nothing; what is read is the same program
with the user's names, places and a docstring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from attncc.emit.gluon import kernels as gluon_kernels
from attncc.emit.gluon.language import to_gluon
from attncc.emit.kernel import TritonKernel
from attncc.emit.render import KernelSource, docstring, tidy
from attncc.emit.templates import fill
from attncc.emit.triton.host import emit_host
from attncc.emit.triton.kernels import (
    Variant,
    backward_diagonal,
    backward_kv,
    backward_pairs,
    backward_q,
    forward,
    prepare,
)
from attncc.emit.triton.layout import flatten, prune, space, wrap, wrap_prose
from attncc.emit.triton.plan import Drawn, Role
from attncc.emit.triton.tables import list_tiles, refine_tiles, refining_warps
from attncc.emit.triton.visits import is_tabulated
from attncc.schedule.gluon import ONE_PASS, GluonSchedule
from attncc.schedule.triton import AnySchedule, Schedules, TritonSchedule


@dataclass(frozen=True, slots=True)
class Emitted:
    """One kernel: what is built, what its arguments are, and what is read, which is made when it is asked for."""

    kernel: TritonKernel
    roles: tuple[Role, ...]
    read: Callable[[], KernelSource] = field(compare=False, repr=False)
    schedule: AnySchedule

    @property
    def source(self) -> KernelSource:
        """The kernel with the user's names, places and a docstring."""
        return self.read()


def emit_forward(variant: Variant, schedule: AnySchedule, text: str) -> Emitted:
    """The forward kernel; `text` is the variant as `.attn`."""
    return _emit_pass("forward", forward, variant, schedule, text)


def emit_prepare(variant: Variant, schedule: AnySchedule) -> Emitted:
    """The kernel before both passes backward."""
    return _emit("prepare", schedule, variant, lambda readable: prepare(variant, schedule, readable=readable))


def _emit_pass(name: str, draw: Callable[..., Drawn], variant: Variant, schedule: AnySchedule, text: str) -> Emitted:
    """A pass, in the language of its schedule; `draw` is Triton's."""
    language = "Triton"
    if isinstance(schedule, GluonSchedule):
        language, draw = "Gluon", getattr(gluon_kernels, name)
    lines = wrap_prose(docstring(variant.spec.name, text, schedule.reasons, f"{TITLES[name]}, {language}"))
    return _emit(name, schedule, variant, lambda readable: draw(variant, schedule, lines, readable=readable))


def emit_list_tiles(variant: Variant, schedule: AnySchedule, *, owns_queries: bool) -> Emitted:
    """The kernel that lists the tiles which a pass visits."""
    return _emit(
        "tiles",
        schedule,
        variant,
        lambda readable: list_tiles(variant, schedule, owns_queries=owns_queries, readable=readable),
        entry="list_tiles",
    )


def emit_refine_tiles(variant: Variant, schedule: AnySchedule, *, owns_queries: bool) -> Emitted:
    """The kernel that looks inside the partial tiles of a table."""
    return _emit(
        "refine",
        schedule,
        variant,
        lambda readable: refine_tiles(variant, schedule, owns_queries=owns_queries, readable=readable),
        entry="refine_tiles",
        num_warps=refining_warps(schedule),
    )


def _emit(
    template: str,
    schedule: AnySchedule,
    variant: Variant,
    draw: Callable[[bool], Drawn],
    entry: str | None = None,
    num_warps: int | None = None,
) -> Emitted:
    built = draw(False)
    gluon = isinstance(schedule, GluonSchedule) and template in GLUON
    text, idle = _text(template, built, gluon)
    digest = hashlib.sha256(text.encode()).hexdigest()
    passed = [(argument, role) for argument, role in built.arguments if argument.name not in idle]
    kernel = TritonKernel(
        KernelSource(template, text, digest),
        entry or template,
        tuple(argument for argument, _ in passed),
        num_warps or schedule.num_warps,
        schedule.num_stages,
        gluon=gluon,
    )

    @cache
    def read() -> KernelSource:
        return KernelSource(f"{variant.spec.name}_{template}", _text(template, draw(True), gluon)[0], digest)

    return Emitted(kernel, tuple(role for _, role in passed), read, schedule)


def _text(template: str, drawn: Drawn, gluon: bool) -> tuple[str, tuple[str, ...]]:
    """A filled template, and the arguments that it does without."""
    name = "backward_kv" if template == ONE_PASS else template
    filled = fill(f"{'gluon' if gluon else 'triton'}/{name}", dict(drawn.values))
    text, idle = prune(flatten(tidy(to_gluon(filled) if gluon else filled)))
    return space([row for line in text.split("\n") for row in wrap(line)]), idle


@dataclass(frozen=True, slots=True)
class TritonProgram:
    """Every kernel that a pass of a variant launches, and the part that torch computes.

    `lists` are the kernels that fill tables of tiles, by the pass that reads them, and after `refine_` those that look
    inside tiles; `text` is the variant as `.attn`.
    """

    variant: Variant
    schedules: Schedules
    text: str
    passes: Mapping[str, Emitted]
    lists: Mapping[str, Emitted]
    host: KernelSource | None

    @property
    def source(self) -> KernelSource:
        """All kernels, to be read."""
        parts = [emitted.source for emitted in (*self.passes.values(), *self.lists.values())]
        parts += [self.host] if self.host else []
        digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
        return KernelSource(self.variant.spec.name, "\n\n".join(part.text for part in parts), digest)

    def rescheduled(self, schedules: Schedules) -> TritonProgram:
        """The same kernels under other schedules."""
        return emit_program(self.variant, schedules, self.text)

    def scheduled(self, name: str) -> tuple[Emitted, ...]:
        """The kernels that run under the schedule of this name."""
        return tuple(emitted for kernel, emitted in self.passes.items() if SCHEDULED_AS.get(kernel, kernel) == name)


def gluon_refusal(variant: Variant) -> str | None:
    """Why the kernels of a variant cannot be in Gluon, whatever their schedules; None where they can."""
    if not variant.aligned:
        return "the TMA takes addresses and strides that are multiples of 16, and nothing that a stride of 0 repeats"
    if variant.derivatives is not None and variant.shares_rows:
        return "scores are so large that the sums of rows are kept apart from lse, which Gluon kernels do not read"
    return None


def fits_one_pass(variant: Variant) -> bool:
    """Whether one pass can make all gradients: those of q, k and v are asked for, and none that a query owns."""
    assert variant.derivatives is not None
    gradients = variant.derivatives.gradients
    return gradients.q and gradients.k and gradients.v and not variant.row_sums


#: The passes that have Gluon kernels.
GLUON: Final = ("forward", "backward_q", "backward_kv", ONE_PASS)
#: The passes whose programs own keys.
OWN_KEYS: Final = ("backward_kv", ONE_PASS)
#: What is said of a pass in its kernel.
TITLES: Final = {
    "forward": "forward",
    "backward_q": "backward over q",
    "backward_kv": "backward over kv",
    "backward_diagonal": "backward over diagonal",
    "backward_pairs": "backward over pairs",
    ONE_PASS: "backward in one pass",
}
#: Kernels that run under the schedule of another name.
SCHEDULED_AS: Final = {"prepare": "backward_q", "backward_diagonal": "backward_pairs"}


def emit_program(variant: Variant, schedules: Schedules, text: str) -> TritonProgram:
    """The kernels of the forward pass, or of the backward pass where the variant has derivatives."""
    if variant.derivatives is None:
        passes = {"forward": emit_forward(variant, schedules.forward, text)}
        return TritonProgram(variant, schedules, text, passes, _lists(variant, passes), emit_host(variant))
    one_pass = replace(variant, one_pass=True)
    variant = one_pass if schedules.backward and fits_one_pass(one_pass) else replace(variant, one_pass=False)
    passes = {"prepare": emit_prepare(variant, schedules.backward_q)}
    if variant.one_pass:
        draw = gluon_kernels.backward
        passes[ONE_PASS] = _emit_pass(ONE_PASS, draw, variant, schedules.backward[0], text)
    else:
        passes |= _two_passes(variant, schedules, text)
    if variant.diagonal_sums:
        square = square_tiles(schedules.backward_pairs)
        passes["backward_diagonal"] = _emit_pass("backward_diagonal", backward_diagonal, variant, square, text)
    if variant.pair_sums:
        passes["backward_pairs"] = _emit_pass("backward_pairs", backward_pairs, variant, schedules.backward_pairs, text)
    return TritonProgram(variant, schedules, text, passes, _lists(variant, passes), emit_host(variant))


def _two_passes(variant: Variant, schedules: Schedules, text: str) -> dict[str, Emitted]:
    """The pass that owns queries, and the one that owns keys, as far as either is asked for."""
    assert variant.derivatives is not None
    gradients, passes = variant.derivatives.gradients, {}
    if gradients.q or variant.row_sums:
        passes["backward_q"] = _emit_pass("backward_q", backward_q, variant, schedules.backward_q, text)
    if gradients.k or gradients.v or variant.column_sums:
        passes["backward_kv"] = _emit_pass("backward_kv", backward_kv, variant, schedules.backward_kv, text)
    return passes


def square_tiles(schedule: TritonSchedule) -> TritonSchedule:
    """The schedule with square tiles, as sums along diagonals need them."""
    side = min(schedule.tile_q, schedule.tile_kv)
    reason = f"tiles are {side} x {side}: sums along diagonals need squares"
    return replace(schedule, tile_q=side, tile_kv=side, reasons=(*schedule.reasons, reason))


def _lists(variant: Variant, passes: Mapping[str, Emitted]) -> dict[str, Emitted]:
    """A table for each pass that walks tiles, where they are not closed forms."""
    if not is_tabulated(variant.shape):
        return {}
    walking = [name for name in passes if name not in ("prepare", "backward_diagonal")]
    owners = {name: name not in OWN_KEYS for name in walking}
    lists = {n: emit_list_tiles(variant, passes[n].schedule, owns_queries=owns) for n, owns in owners.items()}
    if variant.problem.refine:
        made = {n: emit_refine_tiles(variant, passes[n].schedule, owns_queries=owns) for n, owns in owners.items()}
        lists |= {f"refine_{n}": emitted for n, emitted in made.items()}
    return lists

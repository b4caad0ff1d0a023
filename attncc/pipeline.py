"""The compiler's table of contents: what a spec goes through on its way to kernels.

`lower` takes a spec, the problem and the target to the text of the kernels. Its results are remembered; `lower_text`
finds them from the spec's text alone, so that an exported graph needs nothing else.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, ParamSpec, TypeVar

from attncc.analysis import TileTest
from attncc.analysis.bands import MaskShape, summarize_mask
from attncc.analysis.count import Grid, count_tiles
from attncc.emit import Derivatives, KernelSource, differentiable, docstring, plan, render
from attncc.emit.triton.kernels import Variant
from attncc.emit.triton.program import TritonProgram, emit_program, gluon_refusal
from attncc.emit.triton.visits import is_tabulated
from attncc.errors import UnsupportedError
from attncc.ir import FALSE, SCORE, AttentionSpec, Expr, Op, Scalar, const, postorder, print_spec
from attncc.ir.texts import LINE_END, known_spec
from attncc.ir.texts import remember as remember  # the other half of `lower_text`
from attncc.ir.verify import verify
from attncc.passes import derive, lift, simplify
from attncc.passes.gather import gather
from attncc.passes.order import ordered
from attncc.schedule import (
    Gradients,
    Guarded,
    Problem,
    Schedule,
    Target,
    call_box,
    choose_schedule,
    guard,
    prove_divisions,
    prove_loads,
    prove_plain_loads,
    prove_positive,
)
from attncc.schedule.fast_math import approximate
from attncc.schedule.gluon import is_short
from attncc.schedule.triton import Schedules, choose_triton_schedules

#: What a mask is measured by where a choice depends on how much it shows.
USUAL_GRID: Final = Grid(8192, 8192, 128, 64)
ROWS_OF_USUAL_GRID: Final = USUAL_GRID.q_len // USUAL_GRID.tile_q
Observe = Callable[[str, object], None]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def ignore(stage: str, value: object) -> None:
    """The observer that looks at nothing."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A spec with everything that was made of it. `backward` is None where the problem asks for no gradients.

    `canonical` is the spec after lifting and simplification. `differentiable` says for each capture whether it can have
    a gradient: one that only the mask reads has none.
    """

    spec: AttentionSpec
    canonical: AttentionSpec
    differentiable: tuple[bool, ...]
    tile_test: TileTest
    schedule: Schedule
    torch_forward: KernelSource | None = None
    torch_backward: KernelSource | None = None
    triton_forward: TritonPrograms | None = None
    triton_backward: TritonPrograms | None = None

    @property
    def forward(self) -> KernelSource:
        """The forward kernels as they are read."""
        found = self.torch_forward if self.triton_forward is None else self.triton_forward().source
        assert found is not None
        return found

    @property
    def backward(self) -> KernelSource | None:
        """The backward kernels as they are read."""
        return self.torch_backward if self.triton_backward is None else self.triton_backward().source


@dataclass(frozen=True)
class TritonPrograms:
    """The Triton kernels of one pass, each kind made when it is asked for."""

    variant: Variant
    schedules: Schedules
    text: str
    made: dict[tuple[bool, bool], TritonProgram] = field(default_factory=dict)

    def __call__(self, aligned: bool = True, wide: bool = False) -> TritonProgram:
        """The kernels for tensors whose addresses and strides are multiples of 16, or for any; `wide` for sequences
        of 2 ** 31 elements and more."""
        if (aligned, wide) not in self.made:
            variant = replace(self.variant, aligned=aligned, wide=wide)
            why = gluon_refusal(variant)
            schedules = self.schedules if why is None else self.schedules.without_gluon(why)
            self.made[aligned, wide] = emit_program(variant, schedules, self.text)
        return self.made[aligned, wide]

    @property
    def guards_reads(self) -> bool:
        """Whether a row becomes NaN where a visible pair reads beyond a captured tensor, or is divided by 0."""
        return self.variant.guarded.beyond is not FALSE

    def has_gluon(self, wide: bool) -> bool:
        """Whether kernels for aligned tensors may be in Gluon."""
        return self.schedules.has_gluon and gluon_refusal(replace(self.variant, aligned=True, wide=wide)) is None


def lower(spec: AttentionSpec, problem: Problem, target: Target, observe: Observe = ignore) -> Lowered:
    """The kernels of a spec. `observe` sees each stage's name and result; without one, results are remembered."""
    if observe is not ignore:
        return _lower(spec, problem, target, observe)
    return _lower_once(print_spec(spec, names="user", origins=True), spec, problem, target)


def lower_text(text: str, problem: Problem, target: Target) -> Lowered:
    """The kernels of a spec that is known by its text; a text that this process has not seen is parsed."""
    found = _LOWERED.get((text, problem, target))
    if found is not None:
        return found
    return _lower_once(text, spec_of(text), problem, target)


def spec_of(text: str) -> AttentionSpec:
    """The spec that operators know by this text; one that this process has not seen is parsed."""
    spec = known_spec(text)
    if spec is None:
        from attncc.frontend import parse  # late: the grammar is loaded only where text is read

        spec = parse(text.replace(LINE_END, "\n"))
    return spec


def _lower_once(text: str, spec: AttentionSpec, problem: Problem, target: Target) -> Lowered:
    """The kernels of a spec under its text. Calls that differ only in facts that prove the same share their kernels."""
    if text not in _CANONICAL:
        _CANONICAL[text] = canonicalize(spec)
    canonical = _CANONICAL[text]
    settled = _settled(canonical, differentiable(canonical), problem)
    found = _remembered(_LOWERED, (text, settled, target), _lower, spec)
    _LOWERED[text, problem, target] = found
    return found


def canonicalize(spec: AttentionSpec, observe: Observe = ignore) -> AttentionSpec:
    """The spec verified, with hidden pairs lifted into its mask, simplified, and its mask in order."""
    _see(observe, "verify", verify)(spec)
    lifted = _see(observe, "lift", lift)(spec)
    simple = replace(lifted, score=simplify(lifted.score), mask=simplify(lifted.mask))
    observe("simplify", simple)
    return _see(observe, "order", _ordered)(simple)


def _ordered(spec: AttentionSpec) -> AttentionSpec:
    """The spec with its mask in order; what was written somewhere keeps its place and its name."""
    became = ordered(spec.mask, spec)
    moved = {became[expr]: origin for expr, origin in spec.origins.items() if expr in became}
    return replace(spec, mask=became[spec.mask], origins={**moved, **spec.origins})


def _lower(spec: AttentionSpec, problem: Problem, target: Target, observe: Observe = ignore) -> Lowered:
    canonical = canonicalize(spec, observe)
    can = differentiable(canonical)
    problem = _settled(canonical, can, problem)
    test = _see(observe, "tiles", solved_test)(canonical.mask)
    guarded = _see(observe, "guard", guard)(canonical, problem.in_bounds, problem.nonzero, problem.plain)
    if target.backend == "triton":
        return _lower_triton(spec, canonical, can, test, guarded, problem, target, observe)
    schedule = _see(observe, "schedule", choose_schedule)(test, problem, target)
    stages = (guarded, solved_test(guarded.spec.mask), problem, schedule)
    forward = _see(observe, "forward", _kernel)(spec, *stages, None)
    backward = None
    if problem.gradients is not None:
        derivatives = _see(observe, "derive", _derivatives)(guarded.spec, problem.gradients)
        backward = _see(observe, "backward", _kernel)(spec, *stages, derivatives)
    return Lowered(spec, canonical, can, test, schedule, forward, backward)


def _lower_triton(
    spec: AttentionSpec,
    canonical: AttentionSpec,
    can: tuple[bool, ...],
    test: TileTest,
    guarded: Guarded,
    problem: Problem,
    target: Target,
    observe: Observe,
) -> Lowered:
    shape = summarize_mask(guarded.spec.mask)
    keys = visited_keys(shape, canonical, problem.heads) if target.gluon else None
    schedules = _see(observe, "schedule", choose_triton_schedules)(problem, target, is_tabulated(shape), keys)
    text = print_spec(spec, names="user")
    fast = replace(guarded, approximate=approximate(guarded.spec, problem, target))
    bare = Variant(fast, replace(problem, gradients=None), shape)
    forward, backward = TritonPrograms(bare, schedules, text), None
    if observe is not ignore:  # what nobody looks at is drawn when it is asked for
        observe("forward", forward().source)
    if problem.gradients is not None:
        derivatives = _see(observe, "derive", _derivatives)(guarded.spec, problem.gradients)
        whole = Variant(guarded, problem, shape, derivatives, grad_lse=True)  # exact: faster backward, see fast_math
        backward = TritonPrograms(whole, schedules, text)
        if observe is not ignore:
            observe("backward", backward().source)
    tiles = schedules.forward
    schedule = Schedule(tiles.tile_q, tiles.tile_kv, tiles.tile_q * tiles.tile_kv, tiles.reasons)
    return Lowered(spec, canonical, can, test, schedule, triton_forward=forward, triton_backward=backward)


def visited_keys(shape: MaskShape, spec: AttentionSpec, heads: int) -> float | None:
    """The keys that a tile of queries of the first head visits on average; None for a mask that reads captures."""
    inputs = {"b": 0, "h": 0, "batch": 1, "heads": heads} | {p.name: p.value for p in spec.parameters}
    try:
        return count_tiles(shape, USUAL_GRID, inputs).visited * USUAL_GRID.tile_kv / ROWS_OF_USUAL_GRID
    except UnsupportedError:
        return None


def _kernel(
    spec: AttentionSpec,
    guarded: Guarded,
    test: TileTest,
    problem: Problem,
    schedule: Schedule,
    derivatives: Derivatives | None,
) -> KernelSource:
    what = "attention in tiles" if derivatives is None else "gradients of attention in tiles"
    top = docstring(spec.name, print_spec(spec, names="user"), schedule.reasons, what)
    readable = plan(guarded, test, problem, schedule, derivatives, docstring=top)
    return render(readable, plan(guarded, test, problem, schedule, derivatives, readable=False))


def _settled(canonical: AttentionSpec, can: tuple[bool, ...], problem: Problem) -> Problem:
    """The problem with the facts of the call drawn upon, and without gradients that do not exist."""
    gradients, facts = problem.gradients, problem.facts
    if gradients is not None:
        wanted = tuple(a and b for a, b in zip(gradients.captures, can, strict=True))
        problem = replace(problem, gradients=replace(gradients, captures=wanted))
    if facts is None:
        return problem
    sizes = {"batch": facts.batch, "heads": problem.heads, "q_len": facts.q_len, "kv_len": facts.kv_len}
    shapes = {c.name: shape for c, shape in zip(canonical.captures, facts.capture_shapes, strict=True)}
    parameters = {p.name: value for p, value in zip(canonical.parameters, facts.parameters, strict=True)}
    box = call_box(sizes, parameters)
    return replace(
        problem,
        in_bounds=prove_loads(canonical, box, shapes),
        plain=prove_plain_loads(canonical, box, shapes),
        nonzero=prove_divisions(canonical, box),
        positive=prove_positive(canonical, box),
        short=is_short(problem),
        facts=None,
    )


@functools.lru_cache(maxsize=512)
def solved_test(mask: Expr) -> TileTest:
    """The classification of tiles by a mask, as sharp as it can be solved."""
    return summarize_mask(mask).test


def _derivatives(canonical: AttentionSpec, gradients: Gradients) -> Derivatives:
    """The derivatives that the gradients need, by the score and by each read of a capture."""
    names = tuple(capture.name for capture in canonical.captures)
    wanted = {name for name, want in zip(names, gradients.captures, strict=True) if want}
    reads = [
        e for e in postorder(canonical.score) if e.op is Op.LOAD and e.scalar is Scalar.FLOAT and e.value in wanted
    ]
    written = frozenset(postorder(canonical.score))
    by_load = {read: gather(simplify(derive(canonical.score, read)), written) for read in reads}
    by_load = {read: derivative for read, derivative in by_load.items() if derivative is not const(0.0)}
    by_score = gather(simplify(derive(canonical.score, SCORE)), written)
    return Derivatives(by_score, by_load, gradients, names)


def _see(observe: Observe, stage: str, function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, its result shown to the observer."""

    def seen(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        result = function(*args, **kwargs)
        observe(stage, result)
        return result

    return seen


_LOCK = threading.RLock()
_CANONICAL: dict[str, AttentionSpec] = {}
_LOWERED: dict[tuple[str, Problem, Target], Lowered] = {}
MAX_REMEMBERED = 4096


def _remembered(
    memory: dict[tuple[str, Problem, Target], Lowered],
    key: tuple[str, Problem, Target],
    make: Callable[[AttentionSpec, Problem, Target], Lowered],
    spec: AttentionSpec,
) -> Lowered:
    found = memory.get(key)
    if found is not None:
        return found
    with _LOCK:
        if key not in memory:
            if len(memory) >= MAX_REMEMBERED:
                memory.clear()
            memory[key] = make(spec, key[1], key[2])
        return memory[key]

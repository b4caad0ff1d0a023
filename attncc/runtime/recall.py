"""Programs that an earlier process has settled, found again in the cache without analysis, templates or compiler.

An entry holds which kernels a pass runs, by their keys, and how they are launched: plain values. Its key is made of
everything that decides this: the variant's text, the problem, the target, the device, the version of Triton, the pack,
and a digest of attncc's own sources. So an entry is never stale; where one is missing, the text is lowered as ever.
Programs around whose kernels torch runs generated code are not kept: nothing that is found here is executed on the
host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import torch

from attncc.config import LOG, settings
from attncc.ir import Op, postorder
from attncc.runtime import triton_build, triton_version
from attncc.runtime.cache import default_store, digest
from attncc.runtime.manifest import canonical, sha256
from attncc.runtime.outline import from_plain, read_marks, to_plain
from attncc.runtime.pack import INDEX
from attncc.runtime.sources import sources_digest
from attncc.runtime.triton_attention import Loaded, Programs
from attncc.runtime.triton_kernel import Kernel, load_kernel
from attncc.runtime.triton_tables import Lister
from attncc.schedule.gluon import is_short
from attncc.schedule.target import Problem, Target

if TYPE_CHECKING:  # what is found needs no emitter
    from attncc.emit.triton.program import TritonProgram

KIND: Final = "program"
#: What the proofs of a call may depend on without knowing its lengths, its batch or its parameters.
OF_FORM: Final = frozenset(("h", "heads"))

Settle = Callable[[bool, bool], "TritonProgram"]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a pass before the layout of its tensors is."""

    key: str
    guards_reads: bool
    gluon: tuple[bool, bool]  # for tensors that are not wide, and wide
    differentiable: tuple[bool, ...]


@dataclass
class Memory:
    """What the cache knows of one pass of a variant, as one call poses it, on one device."""

    text: str
    problem: Problem
    target: Target
    device: torch.device
    #: For each captured tensor whether it can have a gradient; known once the text has been lowered.
    differentiable: tuple[bool, ...] | None = None
    _head: list[Head] = field(default_factory=list)

    @property
    def key(self) -> str | None:
        """What names the pass in the cache, once that is known."""
        return self._head[0].key if self._head else None

    def head(self) -> Head | None:
        """What is known of the pass; None where nothing is."""
        if not self._head:
            for problem, shapes in self._posed():
                key = digest(self._identity(problem, shapes, "head"))
                entry = default_store().load(key)
                if entry is not None:
                    facts = entry.facts
                    can = tuple(facts["differentiable"])
                    self._head.append(Head(key, facts["guards_reads"], tuple(facts["gluon"]), can))
                    break
        return self._head[0] if self._head else None

    def load(self, aligned: bool, wide: bool, settle: Settle) -> Loaded | None:
        """The kernels for tensors of a kind, loaded; None where they are not all known. `settle` makes the program."""
        for problem, shapes in self._posed():
            entry = default_store().load(digest(self._identity(problem, shapes, [aligned, wide])))
            if entry is None or not _same_winners(entry.facts["winners"]):
                continue
            outline = from_plain(entry.facts["outline"])
            kernels = self._kernels(entry.facts["kernels"])
            if kernels is None:
                return None
            compute = partial(read_marks, outline.marks) if outline.marks else None
            lister = Lister(outline, kernels, compute, self.device)
            LOG.debug("a pass was found in the cache as it ran before: %s", entry.key)
            return Loaded(outline, cache(partial(settle, aligned, wide)), kernels, lister, {})
        return None

    def knows(self, aligned: bool, wide: bool) -> bool:
        """Whether the kernels for tensors of a kind are known, so that none has to be compiled."""
        for problem, shapes in self._posed():
            entry = default_store().load(digest(self._identity(problem, shapes, [aligned, wide])))
            if entry is not None and _same_winners(entry.facts["winners"]):
                return all(triton_build.find(kernel["key"]) is not None for kernel in entry.facts["kernels"].values())
        return False

    def _kernels(self, known: Mapping[str, Any]) -> dict[str, Kernel] | None:
        found = {}
        for name, kernel in known.items():
            built = triton_build.find(kernel["key"])
            if built is None:
                return None
            keys, (tile_q, tile_kv) = tuple(kernel["arguments"]), kernel["tiles"]
            found[name] = load_kernel(built, keys, (tile_q, tile_kv), kernel["persistent_until"], self.device)
        return found

    def keep(self, first: TritonProgram, gluon: tuple[bool, bool], guards_reads: bool, loaded: Loaded) -> None:
        """Keep what was settled, beginning with the program `first`, for processes to come."""
        variant = loaded.program.variant
        if loaded.outline.hosted or self.differentiable is None or not _is_settled_for_all(first, loaded, self.device):
            return
        if sources_digest() != _own_sources():  # they have changed since this process began
            return
        problem, shapes = self._posed()[0 if _is_of_form(variant.spec) else 1]
        head = {"guards_reads": guards_reads, "gluon": list(gluon), "differentiable": list(self.differentiable)}
        facts = {
            "variant": variant.spec.name,
            "outline": to_plain(loaded.outline),
            "kernels": {name: _plain_kernel(kernel) for name, kernel in loaded.kernels.items()},
            "winners": {key: _state(key) for key in _asked(first, self.device)},
        }
        store = default_store()
        found = store.publish(self._identity(problem, shapes, "head"), {"variant": variant.spec.name, **head}, {})
        self._head[:] = [Head(found.key, guards_reads, gluon, self.differentiable)]
        key = self._identity(problem, shapes, [variant.aligned, variant.wide])
        store.remove(digest(key))  # winners may have changed
        store.publish(key, facts, {})

    def _posed(self) -> list[tuple[Problem, list[Any]]]:
        """The problem as all calls of its form pose it, with the shapes of captured tensors, and as this one does."""
        facts = self.problem.facts
        shapes = [] if facts is None else [list(shape) for shape in facts.capture_shapes]
        formal = replace(self.problem, facts=None, short=is_short(self.problem))
        return [(formal, shapes), (self.problem, shapes)]

    def _identity(self, problem: Problem, shapes: list[Any], part: object) -> dict[str, Any]:
        return {
            "kind": KIND,
            "part": part,
            "text": self.text,
            "problem": _plain(problem),
            "shapes": shapes,
            "target": self.target.arch,
            "made for": dataclasses.asdict(self.target),
            "device": torch.cuda.get_device_name(self.device),
            "triton": triton_version.version(),
            "pack": _pack_digest(),
            "sources": _own_sources(),
        }


class Recalled:
    """The kernels of one pass that the cache knows; `lower` makes them where more is asked for than how they run."""

    def __init__(self, head: Head, lower: Callable[[], Programs]) -> None:
        self._head = head
        self._lower = cache(lower)

    def __call__(self, aligned: bool = True, wide: bool = False) -> TritonProgram:
        """The kernels for tensors that are aligned or not, and wide or not."""
        return self._lower()(aligned, wide)

    @property
    def guards_reads(self) -> bool:
        """Whether a row becomes NaN where a visible pair reads beyond a captured tensor, or is divided by 0."""
        return self._head.guards_reads

    def has_gluon(self, wide: bool) -> bool:
        """Whether kernels for aligned tensors may be in Gluon."""
        return self._head.gluon[wide]


def memory_of(text: str, problem: Problem, target: Target, device: torch.device) -> Memory | None:
    """What the cache knows of a pass on a device; None where nothing is kept."""
    return Memory(text, problem, target, device) if device.type == "cuda" else None


def _plain(problem: Problem) -> dict[str, Any]:
    """A problem as JSON holds it."""
    plain = dataclasses.asdict(problem)
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in plain.items()}


def _plain_kernel(kernel: Kernel) -> dict[str, Any]:
    return {
        "key": kernel.launch.built.key,  # type: ignore[attr-defined]  # a Launch
        "arguments": list(kernel.keys),
        "tiles": [kernel.tile_q, kernel.tile_kv],
        "persistent_until": kernel.persistent_until,
    }


def _is_settled_for_all(first: TritonProgram, loaded: Loaded, device: torch.device) -> bool:
    """Whether what was settled here is what every process would settle: each choice could be compiled, as usual, or
    none had to be, since the first fits."""
    if triton_build.compile_refusal() is None:
        return not triton_version.debugging_variables()
    from attncc.runtime.tuned import with_winners  # late: what is found in the cache needs no schedules

    wanted = with_winners(first, torch.cuda.get_device_name(device)).passes
    return {n: e.kernel for n, e in wanted.items()} == {n: e.kernel for n, e in loaded.program.passes.items()}


def _is_of_form(spec: Any) -> bool:
    """Whether what is proven of a call's reads and divisions holds in all calls of its form."""
    places = [e.args for e in postorder(spec.score, spec.mask) if e.op is Op.LOAD]
    places += [e.args[1:] for e in postorder(spec.score, spec.mask) if e.op in (Op.FLOORDIV, Op.MOD)]
    inside = postorder(*(place for each in places for place in each))
    return all(e.value in OF_FORM if e.op is Op.INPUT else e.op not in (Op.PARAM, Op.LOAD) for e in inside)


def _asked(program: TritonProgram, device: torch.device) -> list[str]:
    from attncc.runtime.tuned import asked  # late: what is found in the cache needs no schedules

    return asked(program, torch.cuda.get_device_name(device))


def _same_winners(known: Mapping[str, str | None]) -> bool:
    """Whether `attncc tune` has found nothing else since."""
    return all(_state(key) == state for key, state in known.items())


def _state(key: str) -> str | None:
    """What stands under a key, in short."""
    entry = default_store().load(key)
    return None if entry is None else sha256(canonical(entry.facts).encode())


@cache
def _own_sources() -> str:
    """The digest of attncc's sources when this process first asked."""
    return sources_digest()


@cache
def _pack_digest() -> str | None:
    folder = settings().pack
    return None if folder is None else sha256((folder / INDEX).read_bytes())

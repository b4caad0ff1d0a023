"""Tracing: a user's Python functions, called once with traced values, become an `AttentionSpec`.

`trace` and `trace_functions` call them; `fingerprint` is a key that is equal exactly where tracing would give the same;
`Traced.read` finds the captured tensors and numbers anew in each call. Traces are remembered with the facts that they
depend on (`reach`) and with what they read beyond: numbers whose plain value was used, sizes of tensors. No tensor is
kept alive by that.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import CodeType, FunctionType
from typing import Any, Final

import torch

from attncc.errors import InputError, LanguageError
from attncc.frontend.access import Access, Found, access_of
from attncc.frontend.declarations import declared_dims
from attncc.frontend.dispatch import Dispatch
from attncc.frontend.reach import reach
from attncc.frontend.reach_functions import example_of
from attncc.frontend.recordings import Program, compose, gradients
from attncc.frontend.results import finished, user_error
from attncc.frontend.signatures import arguments, described, role_of
from attncc.frontend.tracer import Guard, Tracer
from attncc.frontend.walk import Walk
from attncc.frontend.watching import strangers, watching
from attncc.ir import SCORE, TRUE, AttentionSpec, Capture, Expr, Op, Parameter, Scalar, evaluate, postorder
from attncc.ir.text import print_expr

Function = Callable[..., Any]
REMEMBERED: Final = 1024
VARIETIES: Final = 256
RESTARTS: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """What one call reads from the user's surroundings, in the order of the spec."""

    captures: tuple[torch.Tensor, ...]
    parameters: tuple[int, ...]


NO_VALUES: Final = Values((), ())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """What a trace found: the spec, and how its captures and parameters are read again."""

    spec: AttentionSpec
    facts: tuple[Any, ...]
    pinned: tuple[tuple[int, int], ...]
    guards: tuple[Guard, ...]
    numbers: tuple[tuple[str, int], ...]
    parameters: tuple[str, ...]
    divisors: tuple[Expr, ...]
    program: Program
    opaque: str | None
    #: How functions of some code are read without a walk; None where they need one.
    accesses: dict[tuple[int, ...], Access | None] = dataclasses.field(default_factory=dict)

    def holds(self, walk: Walk | Found) -> bool:
        """Whether what a walk found, with the same facts, also agrees with what the trace read beyond them."""
        if any(walk.ints[position] != value for position, value in self.pinned):
            return False
        return all(read(walk.tensors[position], *args) == value for position, read, args, value in self.guards)

    def read(self, score_mod: Function | None, mask_mod: Function | None, device: torch.device | None = None) -> Values:
        """The captured tensors and the parameters as they are now; operations on captures alone run here.

        `device` is where the queries are, for tensors that the functions make. InputError if the functions are not
        those that were traced, or something that they depend on has changed.
        """
        walk = self._reached((score_mod, mask_mod))
        if walk is None or ((self.pinned or self.guards) and not self.holds(walk)):
            raise InputError(
                "the functions no longer are what was compiled: something that they read has changed its kind",
                hint="compile them again",
            )
        if not self.numbers and not self.program.results:
            return NO_VALUES
        numbers = {name: walk.ints[position] for name, position in self.numbers}
        for divisor in self.divisors:
            if evaluate(divisor, numbers) == 0:
                raise InputError(f"a division by zero: `{print_expr(divisor)}` is 0")
        captures = self.program.run(walk.tensors, numbers, device)
        return Values(captures, tuple(numbers[name] for name in self.parameters))

    def _reached(self, functions: tuple[Function | None, Function | None]) -> Walk | Found | None:
        """What the functions reach now, if the facts are those of the trace."""
        key = tuple([id(each.__code__ if type(each) is FunctionType else _code(each)) for each in functions])
        access = self.accesses.get(key)
        if access is not None and (found := access.read(functions)) is not None:
            return found
        walk, _ = reach(functions)
        if tuple(walk.facts) != self.facts:
            return None
        if key not in self.accesses:
            if len(self.accesses) >= VARIETIES:
                self.accesses.clear()
            self.accesses[key] = access_of(functions, walk)
        return walk


def _code(function: Any) -> object:
    return getattr(getattr(function, "function", function), "__code__", None)


def trace(function: Function, *, name: str | None = None) -> AttentionSpec:
    """The spec of a score function (five arguments) or a mask function (four)."""
    mask = role_of(function) == "mask"
    return trace_functions(None if mask else function, function if mask else None, name).spec


def trace_functions(score_mod: Function | None, mask_mod: Function | None, name: str | None = None) -> Traced:
    """Trace a score and a mask function together; either may be None. LanguageError with the place in their text."""
    walk = _reached(score_mod, mask_mod)
    found = _remembered(walk)
    if found is None or found.opaque is not None:
        found = _trace(score_mod, mask_mod)
        _remember(found)
    return dataclasses.replace(found, spec=_as_now(found, walk, name or described(score_mod, mask_mod)))


def _as_now(found: Traced, walk: Walk, name: str) -> AttentionSpec:
    """The spec with the name asked for, and with the parameters as they are now: a trace may be remembered."""
    at = dict(found.numbers)
    parameters = found.spec.parameters
    if found.opaque is None:
        parameters = tuple(Parameter(each.name, example_of(walk.ints[at[each.name]])) for each in parameters)
    return dataclasses.replace(found.spec, name=name, parameters=parameters)


def fingerprint(score_mod: Function | None, mask_mod: Function | None) -> Hashable | None:
    """A key that two pairs of functions share exactly if they trace to the same spec and are read alike.

    It does not depend on the values of captured tensors and parameters. None if what the functions depend on cannot be
    told: such functions have to be traced in each call. The first call traces, and may raise what tracing raises.
    """
    walk = _reached(score_mod, mask_mod)
    if walk.opaque is not None:
        return None
    found = _remembered(walk)
    if found is None:
        found = _trace(score_mod, mask_mod)
        _remember(found)
    return None if found.opaque is not None else _Key(found)


def _reached(score_mod: Function | None, mask_mod: Function | None) -> Walk:
    for function, what in ((score_mod, "score_mod"), (mask_mod, "mask_mod")):
        if function is not None and not callable(function):
            raise LanguageError(f"`{what}` must be a function, not {function!r}")
    return reach((score_mod, mask_mod))[0]


class _Key:
    """Stands for one trace; equal for equal facts, so that it outlives forgetting."""

    __slots__ = ("_hash", "parts")

    def __init__(self, found: Traced) -> None:
        self.parts = (found.facts, found.pinned, found.guards)
        self._hash = hash((found.facts, found.pinned))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.parts == other.parts


# The memory of traces.

_MEMORY: OrderedDict[tuple[Any, ...], list[Traced]] = OrderedDict()
_LOCK = threading.Lock()


def _remembered(walk: Walk) -> Traced | None:
    if walk.opaque is not None:
        return None
    try:
        with _LOCK:
            candidates = list(_MEMORY.get(tuple(walk.facts), ()))
    except TypeError:  # a fact that cannot be hashed
        return None
    return next((each for each in candidates if each.holds(walk)), None)


def _remember(found: Traced) -> None:
    if found.opaque is not None:
        # Only that it is opaque: it may hold tensors.
        found = dataclasses.replace(found, spec=AttentionSpec(), program=Program())
    try:
        with _LOCK:
            varieties = _MEMORY.setdefault(found.facts, [])
            varieties.insert(0, found)
            del varieties[VARIETIES:]
            _MEMORY.move_to_end(found.facts)
            while len(_MEMORY) > REMEMBERED:
                _MEMORY.popitem(last=False)
    except TypeError:
        return


# One trace.


def _trace(score_mod: Function | None, mask_mod: Function | None) -> Traced:
    """Trace until every number whose plain value is read is a constant from the start."""
    pinned: frozenset[int] = frozenset()
    strange: set[CodeType] | None = None
    for _ in range(RESTARTS):
        walk, tracer, results, ran = _once(score_mod, mask_mod, pinned)
        # Only what runs each time is the function's own: a finalizer may run at any time.
        again = strange is None and bool(ran)
        strange = ran if strange is None else strange & ran
        if tracer.specialized <= pinned and not again:
            if strange:
                name = min(code.co_name for code in strange)
                tracer.opaque = tracer.opaque or f"`{name}` is called in a way that cannot be followed"
            return _composed(walk, tracer, results, score_mod, mask_mod)
        pinned |= tracer.specialized
    raise LanguageError("the function reads other numbers each time that it is called")


def _once(
    score_mod: Function | None, mask_mod: Function | None, pinned: frozenset[int]
) -> tuple[Walk, Tracer, tuple[Expr, Expr], set[CodeType]]:
    """Call the functions once; also the code that ran although the walk did not see it."""
    # A first walk finds the tensors; the second puts traced numbers into their places.
    walk, _ = reach((score_mod, mask_mod))
    tracer = Tracer(_call.__code__, walk.tensors, walk.tensor_names, pinned)
    walk, (score, mask) = reach((score_mod, mask_mod), tracer.number)
    executed: set[CodeType] = set()
    try:
        with watching(executed):
            found = (_result(tracer, score, score_mod, "score"), _result(tracer, mask, mask_mod, "mask"))
    finally:
        tracer.active = False
    return walk, tracer, found, strangers(executed, walk.codes)


def _result(tracer: Tracer, rebuilt: Any, function: Function | None, role: str) -> Expr:
    if function is None:
        return SCORE if role == "score" else TRUE
    args, kwargs = arguments(tracer, function, role)
    dispatch = Dispatch(tracer)
    try:
        with gradients(True), dispatch:
            value = _call(rebuilt, args, kwargs)
        with gradients(True):
            return finished(tracer, dispatch, value, function, role)
    except Exception as error:
        raised = user_error(tracer, error)
        if raised is error:
            raise
        raise raised from None


def _call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Where the user's frames begin: `Places` looks for them no further than here."""
    return function(*args, **kwargs)


def _composed(
    walk: Walk, tracer: Tracer, results: tuple[Expr, Expr], score_mod: Function | None, mask_mod: Function | None
) -> Traced:
    """The spec, with only those captures and parameters that its expressions use."""
    nodes = postorder(*results)
    loaded = dict.fromkeys(str(each.value) for each in nodes if each.op is Op.LOAD)
    used = dict.fromkeys(str(each.value) for each in nodes if each.op is Op.PARAM)
    kept = [
        (capture, source)
        for capture, source in zip(tracer.captures, tracer.sources, strict=True)
        if capture.name in loaded
    ]
    dims = declared_dims(score_mod, mask_mod)
    captures = tuple(_declared(capture, dims.get(capture.name)) for capture, _ in kept)
    parameters = tuple(Parameter(name, tracer.parameters[name][1]) for name in tracer.parameters if name in used)
    spec = AttentionSpec(
        name=described(score_mod, mask_mod),
        score=results[0],
        mask=results[1],
        captures=captures,
        parameters=parameters,
        origins={each: tracer.origins[each] for each in nodes if each in tracer.origins},
    )
    return Traced(
        spec=spec,
        facts=tuple(walk.facts),
        pinned=tuple((position, int(walk.ints[position])) for position in sorted(tracer.pinned | tracer.specialized)),
        guards=tuple(tracer.guards.values()),
        numbers=tuple((name, position) for name, (position, _) in tracer.parameters.items()),
        parameters=tuple(each.name for each in parameters),
        divisors=_divisors(nodes),
        program=compose([source for _, source in kept]),
        opaque=walk.opaque or tracer.opaque,
    )


def _divisors(nodes: list[Expr]) -> tuple[Expr, ...]:
    """What whole numbers are divided by that depends on parameters alone: each call checks that it is not 0."""
    dividing = [each for each in nodes if each.op in (Op.FLOORDIV, Op.MOD) and each.scalar is Scalar.INDEX]
    found = dict.fromkeys(each.args[1] for each in dividing if each.args[1].op is not Op.CONST)
    fixed = (Op.INPUT, Op.LOAD)
    return tuple(each for each in found if not any(part.op in fixed for part in postorder(each)))


def _declared(capture: Capture, dims: tuple[str | int, ...] | None) -> Capture:
    if dims is None or len(dims) != capture.rank:
        return capture
    return dataclasses.replace(capture, dims=dims)

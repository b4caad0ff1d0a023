"""What a variant is at the moment of a call: its spec, and the values that the user's surroundings hold just now.

Python functions are fingerprinted at each call, which is cheap, and traced only when something other than the captured
values has changed. Programs are kept for the whole process, so a new closure with the same code costs a look-up. What
cannot be fingerprinted is traced at each call. Nothing here keeps a captured tensor alive.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from attncc.api.values import check_names
from attncc.errors import InputError
from attncc.frontend import Traced, Values, fingerprint, trace_functions
from attncc.ir import AttentionSpec, Parameter
from attncc.ir.texts import remember
from attncc.runtime.eager import Attention, is_observed

Function = Callable[..., Any]
MAX_PROGRAMS = 512


@dataclass(frozen=True, slots=True)
class Program:
    """A spec with the text under which the operator knows it, and how to read its captured values again."""

    spec: AttentionSpec
    text: str
    traced: Traced | None = None
    #: What runs calls of this program, by the layout of their tensors and all else that it depends on; and the same by
    #: the arguments of calls as they come, for those whose tensors go to kernels as they are.
    prepared: dict[Any, Attention] = field(default_factory=dict, compare=False, repr=False)
    ready: dict[Any, Attention] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """A program with the captured tensors and the parameters of one moment, by name."""

    program: Program
    captures: dict[str, Any]
    parameters: dict[str, Any]

    @property
    def spec(self) -> AttentionSpec:
        """The spec with the parameters of this moment; the program's own has those of its first."""
        kept = self.program.spec
        now = (Parameter(each.name, int(self.parameters.get(each.name, each.value))) for each in kept.parameters)
        return replace(kept, parameters=tuple(now))

    def with_values(self, values: Mapping[str, Any]) -> Reading:
        """The same with some captured tensors and parameters replaced. Raises InputError for a name it lacks."""
        if not values:
            return self
        spec = self.program.spec
        check_names(spec, values)
        names = {capture.name for capture in spec.captures}
        captures = {name: value for name, value in values.items() if name in names}
        parameters = {name: value for name, value in values.items() if name not in names}
        return Reading(self.program, {**self.captures, **captures}, {**self.parameters, **parameters})


_PROGRAMS: OrderedDict[Hashable, Program] = OrderedDict()
#: The last program of each pair of code objects: the usual case needs no fingerprint.
_LATEST: dict[Hashable, Program] = {}
_LOCK = threading.Lock()
_UNTRACED: list[Callable[..., Reading]] = []


def arranged(spec: AttentionSpec) -> AttentionSpec:
    """The spec with its parameters in the order in which kernels take them, the same for every author."""
    if len(spec.parameters) < 2:
        return spec
    from attncc.passes.arrange import arrange  # late: most variants have one parameter at most

    return arrange(spec)


def program_of(spec: AttentionSpec) -> Program:
    """The program of a spec that is not Python."""
    return Program(spec, remember(spec))


def read_functions(
    score_mod: Function | None, mask_mod: Function | None, name: str | None, device: torch.device | None = None
) -> Reading:
    """The program of two Python functions and what they capture now; tensors that they make are made on the device."""
    return _reader()(score_mod, mask_mod, name, device)


def latest(
    score_mod: Function | None, mask_mod: Function | None, name: str | None, device: torch.device
) -> tuple[Program, Values] | None:
    """The last program of two functions with the values of this moment in its order; None where it has to be found, or
    where a number is not a plain int."""
    program = _LATEST.get((_code(score_mod), _code(mask_mod), name))
    if program is None or program.traced is None:
        return None
    try:
        values = program.traced.read(score_mod, mask_mod, device)
    except InputError:  # something has changed since, or will be refused
        return None
    if values.parameters and any(type(each) is not int for each in values.parameters):
        return None
    return program, values


def _reader() -> Callable[..., Reading]:
    """The function that reads; where torch.compile looks on, as one that it leaves alone, with all that it calls."""
    if "torch._dynamo" not in sys.modules or not is_observed():
        return _read_functions
    if not _UNTRACED:
        _UNTRACED.append(torch.compiler.disable(_read_functions))  # type: ignore[no-untyped-call]  # torch
    return _UNTRACED[0]


def _read_functions(
    score_mod: Function | None, mask_mod: Function | None, name: str | None, device: torch.device | None
) -> Reading:
    hint = (_code(score_mod), _code(mask_mod), name)
    program = _LATEST.get(hint)
    if program is not None:
        try:
            return _reading(program, score_mod, mask_mod, device)
        except InputError:  # something has changed since: find the program from scratch
            pass
    found = fingerprint(score_mod, mask_mod)
    program = _traced(score_mod, mask_mod, name) if found is None else _remembered(found, score_mod, mask_mod, name)
    if found is not None:
        if len(_LATEST) >= MAX_PROGRAMS:
            _LATEST.clear()
        _LATEST[hint] = program
    return _reading(program, score_mod, mask_mod, device)


def _code(function: Function | None) -> int:
    """Where to look first. It may be wrong: reading a program checks that it is the one of these functions."""
    return id(getattr(function, "__code__", function))


def _reading(
    program: Program, score_mod: Function | None, mask_mod: Function | None, device: torch.device | None
) -> Reading:
    assert program.traced is not None
    values = program.traced.read(score_mod, mask_mod, device)
    captures = {c.name: tensor for c, tensor in zip(program.spec.captures, values.captures, strict=True)}
    parameters = {p.name: value for p, value in zip(program.spec.parameters, values.parameters, strict=True)}
    return Reading(program, captures, parameters)


def _remembered(found: Hashable, score_mod: Function | None, mask_mod: Function | None, name: str | None) -> Program:
    key = (found, name)
    with _LOCK:
        program = _PROGRAMS.get(key)
        if program is not None:
            _PROGRAMS.move_to_end(key)
            return program
    program = _traced(score_mod, mask_mod, name)  # without the lock: another thread may do the same, which is harmless
    with _LOCK:
        program = _PROGRAMS.setdefault(key, program)
        while len(_PROGRAMS) > MAX_PROGRAMS:
            _PROGRAMS.popitem(last=False)
    return program


def _traced(score_mod: Function | None, mask_mod: Function | None, name: str | None) -> Program:
    traced = trace_functions(score_mod, mask_mod, name)
    spec = arranged(traced.spec)
    traced = replace(traced, spec=spec, parameters=tuple(each.name for each in spec.parameters))
    return Program(spec, remember(spec), traced)


def clear() -> None:
    """Forget all programs; the next calls trace again."""
    with _LOCK:
        _PROGRAMS.clear()
        _LATEST.clear()

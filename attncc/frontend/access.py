"""Reading captured values without a walk, where functions reach only plain things through cells, defaults and globals.

`access_of` makes, once, a list of what is to be looked at, and `Access.read` goes through it in each call. It gives
what a walk would give, or None where a walk has to tell: it never says yes where the walk's facts would differ. It
holds code and plain values, no tensor, no function of the user's and no module.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from attncc.frontend.declarations import declarations
from attncc.frontend.reach_functions import INT64, MISSING, is_pure
from attncc.frontend.scan import scan
from attncc.frontend.walk import Walk

MAX_DEPTH: Final = 8
TENSORS: Final = (torch.Tensor, torch.nn.Parameter)
BUILTINS: Final = vars(builtins)


class Found:
    """What a reading has met: numbers and tensors in the walk's order, and what must not be met twice."""

    __slots__ = ("ints", "met", "tensors")

    def __init__(self) -> None:
        self.ints: list[int] = []
        self.tensors: list[torch.Tensor] = []
        self.met: list[object] = []  # functions and places of numbers: a walk counts those that are shared


#: Looks at a value, notes what it holds, and says whether it is still of the kind that it was.
Look = Callable[[Found, Any], bool]


class Access:
    """How a score and a mask function are read."""

    __slots__ = ("looks",)

    def __init__(self, looks: tuple[Look, ...]) -> None:
        self.looks = looks

    def read(self, functions: Sequence[Any]) -> Found | None:
        """The numbers and tensors that the functions reach now; None where only a walk can tell."""
        found = Found()
        for look, function in zip(self.looks, functions, strict=True):
            if not look(found, function):
                return None
        if len(found.met) > 1 and len(set(found.met)) != len(found.met):
            return None
        if len(found.tensors) > 1 and len(set(map(id, found.tensors))) != len(found.tensors):
            return None
        return found


def access_of(functions: Sequence[Any], walk: Walk) -> Access | None:
    """How to read functions that a walk has just gone through; None where they reach more than plain things."""
    if walk.opaque is not None or walk.typed or walk.more or walk.again:
        return None
    looks = [_look_at(function, 0, outermost=True) for function in functions]
    if any(look is None for look in looks):
        return None
    access = Access(tuple(look for look in looks if look is not None))
    found = access.read(functions)
    if found is None or found.ints != walk.ints or list(map(id, found.tensors)) != list(map(id, walk.tensors)):
        return None
    return access


def _look_at(value: Any, depth: int, *, outermost: bool = False) -> Look | None:
    kind = type(value)
    if kind is int:
        return _int if -INT64 <= value < INT64 else None
    if kind in (bool, type(None)):
        return lambda found, now: now is value
    if kind is float:
        shown = value.hex()
        return lambda found, now: type(now) is float and now.hex() == shown
    if kind is str:
        return lambda found, now: type(now) is str and now == value
    if kind in TENSORS:
        return _tensor(value)
    if kind is types.FunctionType and depth < MAX_DEPTH:
        return _function(value, depth)
    if kind is types.ModuleType and is_pure(value.__name__):
        name = value.__name__
        return lambda found, now: type(now) is types.ModuleType and now.__name__ == name
    if kind is types.BuiltinFunctionType and isinstance(value.__self__, types.ModuleType | None):
        return lambda found, now: now is value
    if getattr(kind, "__attncc_captures__", None) is not None:
        return _declaring(value, depth, outermost)
    return None


def _int(found: Found, now: Any) -> bool:
    if type(now) is not int or not -INT64 <= now < INT64:
        return False
    found.ints.append(now)
    return True


def _tensor(value: torch.Tensor) -> Look | None:
    kind, dtype, rank = type(value), value.dtype, value.dim()

    def look(found: Found, now: Any) -> bool:
        if type(now) is not kind or now.dtype is not dtype or now.dim() != rank or now.__dict__:
            return False
        found.tensors.append(now)
        return True

    return look


def _declaring(value: Any, depth: int, outermost: bool) -> Look | None:
    """A mask or score of the gallery: the function within, and what it declares of its captures."""
    kind, declared, inner = type(value), declarations(value), _look_at(value.function, depth + 1)
    if inner is None:
        return None

    def look(found: Found, now: Any) -> bool:
        if type(now) is not kind or (outermost and now.__attncc_captures__ != declared):
            return False
        return inner(found, now.function)

    return look


def _function(value: types.FunctionType, depth: int) -> Look | None:
    """A function: its cells, then its defaults, then the globals that its code names."""
    code, known = value.__code__, scan(value.__code__)
    if known.library or known.rebound or value.__dict__ or value.__kwdefaults__ or not all(map(is_pure, known.modules)):
        return None
    cells = _looks([_content(cell) for cell in value.__closure__ or ()], depth)
    defaults = _looks(value.__defaults__ or (), depth)
    names = _looks([value.__globals__.get(name, MISSING) for name in known.globals], depth)
    if cells is None or defaults is None or names is None:
        return None
    named = tuple(zip(known.globals, names, strict=True))
    built_in = {name: BUILTINS.get(name, MISSING) for name, look in named if look is _missing}

    def look(found: Found, now: Any) -> bool:
        if type(now) is not types.FunctionType or now.__code__ is not code or now.__dict__ or now.__kwdefaults__:
            return False
        found.met.append(id(now))
        for cell, look in zip(now.__closure__ or (), cells, strict=True):
            if look is _int:
                found.met.append(id(cell))
            if not look(found, _content(cell)):
                return False
        given = now.__defaults__ or ()
        if len(given) != len(defaults):
            return False
        if not all(look(found, each) for look, each in zip(defaults, given, strict=True)):
            return False
        scope = now.__globals__
        for name, look in named:
            if not look(found, scope.get(name, MISSING)):
                return False
            if look is _int:
                found.met.append((id(scope), name))
            if look is _missing and BUILTINS.get(name, MISSING) is not built_in[name]:
                return False
        return True

    return look


def _looks(values: Sequence[Any], depth: int) -> tuple[Look, ...] | None:
    looks = [_missing if value is MISSING else _look_at(value, depth + 1) for value in values]
    known = tuple(look for look in looks if look is not None)
    return known if len(known) == len(looks) else None


def _missing(found: Found, now: Any) -> bool:
    return now is MISSING


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return MISSING

"""How a walk goes through plain values, containers, functions and modules."""

from __future__ import annotations

import builtins
import copy
import functools
import sys
import types
from typing import Any, Final

import torch

from attncc.frontend.scan import Scan, scan
from attncc.frontend.walk import Walk

MAX_ITEMS: Final = 10_000
INT64: Final = 2**63
MISSING: Final = object()
PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))
#: Modules whose functions depend on their arguments only.
PURE: Final = frozenset(
    (
        *("torch", "math", "cmath", "operator", "_operator", "functools", "_functools", "itertools", "typing"),
        *("typing_extensions", "collections", "_collections_abc", "_collections", "dataclasses", "enum", "numbers"),
        *("builtins", "abc", "types", "contextlib", "warnings", "copy", "logging", "__future__", "string"),
    )
)


def is_pure(module: object) -> bool:
    """Whether what a module of this name defines depends on nothing but its arguments."""
    return isinstance(module, str) and module.partition(".")[0] in PURE


def visit_none(walk: Walk, value: Any, name: str) -> object:
    """A value of which there is only one."""
    walk.facts.append(value)
    return value


def visit_text(walk: Walk, value: str | bytes, name: str) -> object:
    """A text."""
    walk.facts += type(value), value
    return value


def visit_bool(walk: Walk, value: bool, name: str) -> object:
    """A bool, which is a constant."""
    walk.facts.append("true" if value else "false")
    return value


def visit_int(walk: Walk, value: int, name: str) -> object:
    """An int, which may differ from call to call; a fact where it stays as it is."""
    if walk.pinned or walk.typed or not -INT64 <= value < INT64:
        walk.facts += "=", value
        return value
    walk.facts.append("int")
    walk.ints.append(value)
    if walk.substitute is None:
        return value
    return walk.substitute(len(walk.ints) - 1, value, name)


def visit_open_int(walk: Walk, value: torch.SymInt, name: str) -> object:
    """An int that torch.export leaves open: a trace sees an example of it, and what takes it as a constant fixes it."""
    if walk.pinned or walk.typed or value.node.hint is None:
        return visit_int(walk, int(value), name)
    walk.facts.append("int")
    walk.ints.append(value)  # type: ignore[arg-type]  # torch counts with it as with an int
    return value if walk.substitute is None else walk.substitute(len(walk.ints) - 1, example_of(value), name)


def example_of(value: int | torch.SymInt) -> int:
    """The int, or an example of one that is open."""
    return int(value.node.hint) if isinstance(value, torch.SymInt) else value


def visit_float(walk: Walk, value: float, name: str) -> object:
    """A float, which is a constant."""
    walk.facts.append(value.hex())
    return value


def visit_atom(walk: Walk, value: Any, name: str) -> object:
    """A value that is known by equality."""
    walk.facts += type(value), value
    return value


def visit_shown(walk: Walk, value: Any, name: str) -> object:
    """A value that is known by what it shows."""
    walk.facts += type(value), repr(value)
    return value


def visit_tensor(walk: Walk, value: torch.Tensor, name: str) -> object:
    """A tensor, known by its kind and its rank."""
    if walk.first_tensor(value, name):
        walk.facts += type(value), value.dtype, value.dim()
        if value.__dict__:
            _pin_named(walk, value.__dict__)
    return value


def visit_function(walk: Walk, value: types.FunctionType, name: str) -> object:
    """A Python function: its code, cells, defaults and globals. Library code is known by itself."""
    found = walk.once(value)
    if found is not None:
        return found[1]
    known = scan(value.__code__)
    walk.facts.append(known)
    walk.learn(known)
    original = value.__dict__.get("_torchdynamo_orig_callable")
    if original is not None and not walk.pinned:
        inner = walk.visit(original, name)
        walk.replace(value, inner)
        return inner
    if known.library and not value.__closure__:
        if is_pure(value.__module__) or value.__module__ not in sys.stdlib_module_names:
            return value
        return walk.unknown(value, f"`{value.__module__}.{value.__name__}` may give another answer each time")
    rebuilt = None
    if walk.substitute is not None and not walk.pinned:
        scope = value.__globals__ if known.library else dict(value.__globals__)
        rebuilt = types.FunctionType(value.__code__, scope, value.__name__, None, _fresh(value, known))
        rebuilt.__dict__.update(value.__dict__)
        rebuilt.__qualname__, rebuilt.__module__ = value.__qualname__, value.__module__
        walk.replace(value, rebuilt)
    if value.__dict__:
        _pin_named(walk, value.__dict__)
    _cells(walk, value, rebuilt)
    _defaults(walk, value, rebuilt)
    _globals(walk, value, known, rebuilt)
    return rebuilt or value


def _pin_named(walk: Walk, attributes: dict[str, Any]) -> None:
    """Attributes that a user put on a function or a tensor, as far as reached code names them."""
    for name in walk.names:
        if name in attributes:
            walk.facts.append(name)
            walk.pin(attributes[name], name)


def _fresh(value: types.FunctionType, known: Scan) -> tuple[types.CellType, ...]:
    """Cells for the rebuilt function; one that is empty, or that the code assigns to, stays the user's own."""
    return tuple(
        cell if name in known.rebound or _content(cell) is MISSING else types.CellType()
        for cell, name in zip(value.__closure__ or (), value.__code__.co_freevars, strict=True)
    )


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return MISSING


def _cells(walk: Walk, value: types.FunctionType, rebuilt: types.FunctionType | None) -> None:
    cells = value.__closure__ or ()
    for i, (cell, name) in enumerate(zip(cells, value.__code__.co_freevars, strict=True)):
        content = _content(cell)
        mine = rebuilt.__closure__[i] if rebuilt is not None and rebuilt.__closure__ else None
        if content is MISSING:
            walk.facts.append("empty")
        elif mine is cell:
            walk.pin(content, name)
        else:
            place = id(cell), None
            found = walk.number(place, content, name) if type(content) is int else walk.visit(content, name)
            if mine is not None:
                mine.cell_contents = found


def _defaults(walk: Walk, value: types.FunctionType, rebuilt: types.FunctionType | None) -> None:
    code = value.__code__
    if value.__defaults__:
        count = len(value.__defaults__)
        names = code.co_varnames[max(0, code.co_argcount - count) : code.co_argcount]
        names += ("default",) * (count - len(names))  # numpy gives its wrappers the defaults of what they wrap
        walk.facts.append(count)
        found = tuple(walk.visit(each, name) for each, name in zip(value.__defaults__, names, strict=True))
        if rebuilt is not None:
            rebuilt.__defaults__ = found
    if value.__kwdefaults__:
        named = {}
        for name, each in value.__kwdefaults__.items():
            walk.facts.append(name)
            named[name] = walk.visit(each, name)
        if rebuilt is not None:
            rebuilt.__kwdefaults__ = named


def _globals(walk: Walk, value: types.FunctionType, known: Scan, rebuilt: types.FunctionType | None) -> None:
    scope = value.__globals__
    for name in known.globals:
        content = scope.get(name, MISSING)
        if content is MISSING:
            content = getattr(builtins, name, MISSING)
            walk.facts.append("absent" if content is MISSING else content)
        elif type(content) is types.ModuleType and is_pure(content.__name__):
            walk.facts.append(content.__name__)
        elif name in known.rebound:
            walk.pin(content, name)
        else:
            place = id(scope), name
            found = walk.number(place, content, name) if type(content) is int else walk.visit(content, name)
            if rebuilt is not None and found is not content:
                rebuilt.__globals__[name] = found
    for name in known.modules:
        if not is_pure(name):
            for module in (sys.modules.get(name), sys.modules.get(name.partition(".")[0])):
                walk.pin(module, name)


def visit_method(walk: Walk, value: types.MethodType, name: str) -> object:
    """A bound method."""
    function, bound = walk.visit(value.__func__, name), walk.visit(value.__self__, "self")
    if function is value.__func__ and bound is value.__self__:
        return value
    return types.MethodType(function, bound)  # type: ignore[arg-type]  # it stands for a function


def visit_partial(walk: Walk, value: functools.partial[Any], name: str) -> object:
    """A partial function."""
    found = walk.once(value)
    if found is not None:
        return found[1]
    walk.facts += "partial", len(value.args)
    function: Any = walk.visit(value.func, name)
    args = [walk.visit(each, f"argument{i}") for i, each in enumerate(value.args)]
    named = {}
    for key, each in value.keywords.items():
        walk.facts.append(key)
        named[key] = walk.visit(each, key)
    if walk.substitute is None or walk.pinned:
        return value
    rebuilt = functools.partial(function, *args, **named)
    walk.replace(value, rebuilt)
    return rebuilt


def visit_module(walk: Walk, value: types.ModuleType, name: str) -> object:
    """A module: what reached code names in it, if it is a user's."""
    if is_pure(value.__name__) or value.__name__.partition(".")[0] == "attncc":
        walk.facts.append(value.__name__)
        return value
    if walk.once(value) is not None:
        return value
    walk.facts.append(value.__name__)
    if value.__name__ in sys.stdlib_module_names:
        return walk.unknown(value, f"the module `{value.__name__}` may give another answer each time")
    content = vars(value)
    for attribute in walk.names:
        if attribute in content:
            walk.facts.append(attribute)
            walk.pin(content[attribute], attribute)
    return value


def visit_sequence(walk: Walk, value: Any, name: str) -> object:
    """A list or tuple."""
    found = walk.once(value)
    if found is not None:
        return found[1]
    if len(value) > MAX_ITEMS:
        return walk.unknown(value, f"`{name}` holds {len(value)} items")
    walk.facts += type(value), len(value)
    fixed = isinstance(value, list) and walk.changes
    walk.pinned += fixed
    names = getattr(value, "_fields", None) or [f"{name}{i}" for i in range(len(value))]
    items = [walk.visit(each, title) for each, title in zip(value, names, strict=True)]
    walk.pinned -= fixed
    if walk.pinned or walk.substitute is None or all(new is old for new, old in zip(items, value, strict=True)):
        return value
    if isinstance(value, tuple):
        rebuilt: Any = tuple.__new__(type(value), items)
    else:
        rebuilt = copy.copy(value)
        rebuilt[:] = items
    walk.replace(value, rebuilt)
    return rebuilt


def visit_mapping(walk: Walk, value: Any, name: str) -> object:
    """A dict or a view of one."""
    found = walk.once(value)
    if found is not None:
        return found[1]
    if len(value) > MAX_ITEMS:
        return walk.unknown(value, f"`{name}` holds {len(value)} items")
    walk.facts += type(value), len(value)
    fixed = walk.changes
    walk.pinned += fixed
    items = {}
    for key, each in value.items():
        walk.pin(key, name)
        items[key] = walk.visit(each, key if isinstance(key, str) else name)
    walk.pinned -= fixed
    if walk.pinned or walk.substitute is None or all(items[key] is value[key] for key in value):
        return value
    if isinstance(value, types.MappingProxyType):
        rebuilt: Any = types.MappingProxyType(items)
    else:
        rebuilt = copy.copy(value)
        rebuilt.update(items)
    walk.replace(value, rebuilt)
    return rebuilt


def visit_set(walk: Walk, value: Any, name: str) -> object:
    """A set of plain values."""
    if len(value) > MAX_ITEMS or not all(type(each) in PLAIN for each in value):
        return walk.unknown(value, f"`{name}` is a set of objects")
    walk.facts += type(value), tuple(sorted(map(repr, value)))
    return value


def visit_built_in(walk: Walk, value: Any, name: str) -> object:
    """A function in C, known by itself where its answers depend on its arguments only."""
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType | type):
        module = getattr(owner, "__name__", None) or getattr(value, "__module__", None)
        if module is None or is_pure(module) or is_pure(getattr(value, "__module__", None)) or isinstance(owner, type):
            walk.facts.append(value)
            return value
    return walk.unknown(value, f"`{name}` is a compiled function")


def visit_cached(walk: Walk, value: Any, name: str) -> object:
    """A function under `functools.cache`: traced values may not get into its cache, so what is within stands for it."""
    if walk.pinned:
        return walk.unknown(value, f"`{name}` remembers its results")
    walk.facts.append("cache")
    return walk.visit(value.__wrapped__, name)


def visit_range(walk: Walk, value: range, name: str) -> object:
    """A range."""
    walk.facts += range, value.start, value.stop, value.step
    return value


def visit_opaque(walk: Walk, value: Any, name: str) -> object:
    """A value that nothing is known of."""
    return walk.unknown(value, f"`{name}` is a `{type(value).__name__}`, whose state cannot be told")

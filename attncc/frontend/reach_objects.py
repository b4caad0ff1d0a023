"""How a walk goes through classes and their objects: the attributes that reached code names, and nothing else.

An object of the user's class is rebuilt as a shallow copy of the same class, made without its constructor. Methods stay
those of the class, so the numbers that they close over are facts, not parameters.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from typing import Any, Final, NamedTuple

import torch

from attncc.frontend.reach_functions import MISSING, is_pure
from attncc.frontend.walk import Walk

#: Methods that only make an object: they run where a class is called, not where its object is used.
CONSTRUCTION: Final = frozenset(("__init__", "__new__", "__post_init__", "__init_subclass__", "__class_getitem__"))
#: Methods that no function of scores calls.
UNREAD: Final = frozenset(
    (
        *("__repr__", "__str__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__copy__"),
        *("__deepcopy__", "__del__", "__sizeof__", "__dir__", "__setattr__", "__delattr__", "__annotate__"),
        *("__replace__", "__annotate_func__"),
    )
)
#: What reads an attribute where the object itself keeps it.
SLOTS: Final = (types.MemberDescriptorType, types.GetSetDescriptorType, type(NamedTuple("Pair", [("x", int)]).x))  # type: ignore[attr-defined]
HEAP_TYPE: Final = 1 << 9
#: Where a module keeps what looks like its attributes.
MODULE_TABLES: Final = ("_parameters", "_buffers", "_modules")


def visit_class(walk: Walk, value: type, name: str) -> object:
    """A class as a value: it may be called, so its constructor counts; not the one that `super()` means."""
    _class(walk, value, name != "__class__")
    return value


def visit_declaring(walk: Walk, value: Any, name: str) -> object:
    """A mask or score that declares its captures: calling it is calling the function within."""
    walk.facts.append("declaring")
    found = walk.visit(value.function, name)
    return value if walk.pinned or walk.substitute is None else found


def visit_object(walk: Walk, value: Any, name: str) -> object:
    """An object: those of its attributes, and of its class's, that reached code names."""
    found = walk.once(value)
    if found is not None:
        return found[1]
    cls = type(value)
    _class(walk, cls, False)
    if is_pure(cls.__module__):
        return _library_object(walk, value, name)
    if isinstance(value, torch.nn.Module) and name != "self":
        _member(walk, cls, "forward")
    content = _content(value)
    if content is None:
        return walk.unknown(value, f"`{name}` is a `{cls.__name__}`, whose state cannot be told")
    # An object that code changes has to stay the user's own.
    fixed = walk.changes or not _can_copy(cls)
    walk.pinned += fixed
    copy = _attributes(walk, value, content)
    walk.pinned -= fixed
    if copy is None or walk.pinned:
        return value
    walk.replace(value, copy)
    return copy


def _attributes(walk: Walk, value: Any, content: dict[str, Any]) -> object | None:
    """Go through the attributes; a copy of the object where one of them was replaced."""
    changed: dict[str, object] = {}
    for name in walk.names:
        if name in content:
            walk.facts.append(name)
            found = walk.visit(content[name], name)
            if found is not content[name]:
                changed[name] = found
    tables: dict[str, dict[str, object]] = {}
    if isinstance(value, torch.nn.Module):
        for table in MODULE_TABLES:
            held = content[table]
            for name in walk.names:
                if name in held:
                    walk.facts += table, name
                    found = walk.visit(held[name], name)
                    if found is not held[name]:
                        tables.setdefault(table, dict(held))[name] = found
    if walk.substitute is None or walk.pinned or not (changed or tables):
        return None
    return _copy(value, content, {**changed, **tables})


def _copy(value: Any, content: dict[str, Any], changed: dict[str, object]) -> object:
    """An object of the same class with other attributes."""
    copy = object.__new__(type(value))
    own = getattr(copy, "__dict__", None)
    for name, held in {**content, **changed}.items():
        if own is not None and name in value.__dict__:
            own[name] = held
        else:
            object.__setattr__(copy, name, held)
    return copy


def _content(value: Any) -> dict[str, Any] | None:
    """The attributes of an object, those in slots too; None where it keeps its state elsewhere."""
    cls = type(value)
    content: dict[str, Any] = {}
    for base in cls.__mro__:
        for name in _slots(base):
            held = getattr(base.__dict__[name], "__get__", lambda *_: MISSING)
            try:
                content[name] = held(value, cls)
            except AttributeError:
                continue
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        content.update(own)
    elif not all(base.__flags__ & HEAP_TYPE or base is object for base in cls.__mro__):
        return None
    return content


def _slots(cls: type) -> list[str]:
    if "__slots__" not in cls.__dict__:
        return []
    return [name for name, each in cls.__dict__.items() if isinstance(each, types.MemberDescriptorType)]


def _can_copy(cls: type) -> bool:
    """Whether `object.__new__` makes an object of this class: none of its bases is written in C."""
    return all(base is object or base.__flags__ & HEAP_TYPE for base in cls.__mro__)


def _library_object(walk: Walk, value: Any, name: str) -> object:
    """An object of torch's or of the standard library: all of its attributes, as they are."""
    content = getattr(value, "__dict__", None)
    if not isinstance(content, dict):
        return walk.unknown(value, f"`{name}` is a `{type(value).__name__}`, whose state cannot be told")
    walk.facts.append(len(content))
    for attribute, held in content.items():
        walk.facts.append(attribute)
        walk.pin(held, attribute)
    return value


def _class(walk: Walk, cls: type, called: bool) -> None:
    """What reached code names of a class and of the user's classes below it."""
    if is_pure(cls.__module__):
        walk.facts.append(cls)
        return
    key = id(cls), called
    if key in walk.classes:
        walk.facts.append(walk.classes[key])
        return
    walk.classes[key] = len(walk.classes)
    for base in cls.__mro__:
        if is_pure(base.__module__):
            walk.facts.append(base)
            continue
        # Weakly: a class may hold tensors.
        walk.facts.append(weakref.ref(base))
        standard = base.__module__ in sys.stdlib_module_names
        for name, member in base.__dict__.items():
            if name in walk.names or (not standard and _is_special(name, member, called)):
                walk.facts.append(name)
                _visit_member(walk, name, member)
    if not is_pure(type(cls).__module__):
        _class(walk, type(cls), True)


def _is_special(name: str, member: object, called: bool) -> bool:
    if not (name.startswith("__") and name.endswith("__")) or name in UNREAD:
        return False
    function = isinstance(member, types.FunctionType | staticmethod | classmethod)
    return function and (called or name not in CONSTRUCTION)


def _member(walk: Walk, cls: type, name: str) -> None:
    for base in cls.__mro__:
        if name in base.__dict__ and not is_pure(base.__module__):
            walk.facts.append(name)
            _visit_member(walk, name, base.__dict__[name])
            return


def _visit_member(walk: Walk, name: str, member: Any) -> None:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    elif isinstance(member, functools.cached_property):
        member = member.func
    elif isinstance(member, SLOTS):
        walk.facts.append("slot")
        return
    walk.pin(member, name)

"""What a code object can reach by its text alone: the globals and attributes that it names, and what it changes.

The answer is a superset of what any run of the code reads, so that a key made from it is never too small. Code whose
reads cannot be told from its text (`getattr`, `globals()`, `eval`) says so in `opaque`.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Final

from attncc.frontend.places import is_library

#: Built-in functions that read what their text does not name.
INDIRECT: Final = frozenset(
    (
        *("getattr", "hasattr", "setattr", "delattr", "vars", "dir", "globals", "locals", "eval", "exec", "compile"),
        *("__import__", "open", "input", "id"),
    )
)
#: Attributes that lead to state outside of what is reached, or to anything at all.
OUTSIDE: Final = frozenset(
    (
        *("__dict__", "__globals__", "__closure__", "__code__", "__defaults__", "__kwdefaults__", "__subclasses__"),
        *("environ", "getenv", "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "initial_seed"),
        *("get_default_dtype", "get_default_device", "is_compiling", "are_deterministic_algorithms_enabled"),
        *("current_device", "get_rng_state", "__getattribute__", "attrgetter", "methodcaller", "asdict", "astuple"),
    )
)
#: Methods that change a container.
CHANGING: Final = frozenset(
    (
        *("append", "extend", "insert", "pop", "popitem", "remove", "clear", "update", "setdefault"),
        *("reverse", "__setitem__", "__setattr__", "popleft", "appendleft"),
    )
)
#: Functions whose assignments to attributes make an object and do not change one.
MAKING: Final = frozenset(("__init__", "__new__", "__post_init__", "__setattr__", "__setstate__", "__init_subclass__"))
GLOBAL_READS: Final = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
ATTRIBUTE_READS: Final = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"))


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The text of one code object and of those within it. Equal code gives the same object."""

    code: CodeType
    library: bool
    globals: tuple[str, ...]
    attributes: frozenset[str]
    modules: tuple[str, ...]
    rebound: frozenset[str]  # free variables and globals that it assigns to
    changes: bool  # whether it may change objects that it did not make
    opaque: str | None  # why its reads cannot be told


#: Equal code of a library and of the user are two: code objects compare without their file.
_SCANS: dict[tuple[CodeType, bool], Scan] = {}
_LIMIT: Final = 8192


def scan(code: CodeType) -> Scan:
    """The scan of a code object, made once."""
    key = code, is_library(code.co_filename)
    found = _SCANS.get(key)
    if found is None:
        if len(_SCANS) >= _LIMIT:
            _SCANS.clear()  # keys made before refer to scans of their own: they miss, and are made again
        found = _SCANS.setdefault(key, _scan(code, key[1]))
    return found


def _scan(code: CodeType, library: bool) -> Scan:
    if library:
        return Scan(code, True, (), frozenset(), (), frozenset(), False, None)
    instructions = [(i.opname, i.argval, within) for within in _nested(code) for i in dis.get_instructions(within)]
    names = dict.fromkeys(str(value) for op, value, _ in instructions if op in GLOBAL_READS)
    attributes = frozenset(_name(value) for op, value, _ in instructions if op in ATTRIBUTE_READS)
    modules = dict.fromkeys(str(value) for op, value, _ in instructions if op == "IMPORT_NAME")
    rebound = {str(value) for op, value, _ in instructions if op in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    rebound |= {str(v) for op, v, _ in instructions if op in ("STORE_DEREF", "DELETE_DEREF") and v in code.co_freevars}
    changing = ("STORE_ATTR", "STORE_SUBSCR", "DELETE_ATTR", "DELETE_SUBSCR", "STORE_SLICE")
    changes = any(op in changing and within.co_name not in MAKING for op, _, within in instructions)
    opaque: str | None = None
    indirect = sorted(INDIRECT & names.keys()) + sorted(OUTSIDE & (attributes | names.keys()))
    if rebound:
        opaque = f"assigns to `{min(rebound)}`, which is not its own"
    elif indirect:
        opaque = f"calls or reads `{indirect[0]}`"
    changes = changes or bool(CHANGING & attributes)
    return Scan(code, False, tuple(names), attributes, tuple(modules), frozenset(rebound), changes, opaque)


def _name(value: object) -> str:
    # LOAD_SUPER_ATTR may carry a pair.
    return str(value[-1]) if isinstance(value, tuple) else str(value)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)

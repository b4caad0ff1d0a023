"""attncc: a compiler for attention variants.

Write what a score or a mask means; attncc derives the tiles to skip, the kernels and the gradients. This module is only
the face: each name is imported from its room when it is first used, so that `import attncc` costs almost nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attncc import flex, variants
    from attncc.api import Variant, attention, compile, load, loads
    from attncc.errors import (
        AttnccError,
        CompileError,
        InputError,
        InternalError,
        LanguageError,
        UnsupportedError,
    )
    from attncc.flex.sdpa import sdpa
    from attncc.frontend import parse, trace
    from attncc.ir import AttentionSpec, print_spec
    from attncc.reference import reference
    from attncc.variants.define import Mask, Score, mask, score

__version__ = "0.1.0"

__all__ = [
    "AttentionSpec",
    "AttnccError",
    "CompileError",
    "InputError",
    "InternalError",
    "LanguageError",
    "Mask",
    "Score",
    "UnsupportedError",
    "Variant",
    "__version__",
    "attention",
    "compile",
    "flex",
    "load",
    "loads",
    "mask",
    "parse",
    "print_spec",
    "reference",
    "score",
    "sdpa",
    "trace",
    "variants",
]

# Which room holds each public name. A test keeps this table, the imports above and `__all__` alike.
_ROOMS = {
    "attncc.api": ("Variant", "attention", "compile", "load", "loads"),
    "attncc.errors": (
        "AttnccError",
        "CompileError",
        "InputError",
        "InternalError",
        "LanguageError",
        "UnsupportedError",
    ),
    "attncc.flex.sdpa": ("sdpa",),
    "attncc.frontend": ("parse", "trace"),
    "attncc.ir": ("AttentionSpec", "print_spec"),
    "attncc.reference": ("reference",),
    "attncc.variants.define": ("Mask", "Score", "mask", "score"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}
# Rooms that are public as a whole, so that `attncc.room.name` works without an import of its own.
_MODULES = ("flex", "variants")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"attncc.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'attncc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _Face(ModuleType):
    """Keeps `attncc.reference` the function: importing the room of that name would put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face

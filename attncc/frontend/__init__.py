"""How a user says what a variant is: as a Python function (`trace`) or as `.attn` text (`parse`).

Each name is imported when it is first used: reading text needs no torch, and tracing no grammar.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attncc.frontend.parse import parse, read_source
    from attncc.frontend.trace import Traced, Values, fingerprint, trace, trace_functions

__all__ = ["Traced", "Values", "fingerprint", "parse", "read_source", "trace", "trace_functions"]

_HOMES = {"parse": "parse", "read_source": "parse"}


class _Package(ModuleType):
    """Keeps `trace` and `parse` the functions: importing a module of that name would bind the module here."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, getattr(value, name) if name in __all__ and isinstance(value, ModuleType) else value)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'attncc.frontend' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"attncc.frontend.{_HOMES.get(name, 'trace')}"), name)
    globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Package

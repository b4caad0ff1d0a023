"""Dims of captured tensors that a mask or score of the gallery declares, as in `{"slopes": "float[heads]"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attncc.ir import NAMED_DIMS

Dims = tuple[str | int, ...]


def declared_dims(*functions: Any) -> dict[str, Dims]:
    """The declared dims by the name of the capture; what is declared twice differently is not declared."""
    found: dict[str, Dims] = {}
    clashing: set[str] = set()
    for function in functions:
        for name, text in declarations(function).items():
            dims = _dims(text)
            if found.setdefault(name, dims) != dims:
                clashing.add(name)
    return {name: dims for name, dims in found.items() if name not in clashing}


def declarations(function: Any) -> dict[str, str]:
    """What a function declares of its captures: texts by name."""
    declared = getattr(function, "__attncc_captures__", None)
    return {str(name): str(text) for name, text in declared.items()} if isinstance(declared, Mapping) else {}


def _dims(text: str) -> Dims:
    """The dims in a declaration such as `float[heads, 8]`; () for a single number."""
    inside = text.partition("[")[2].rstrip("] ")
    parts = [part.strip() for part in inside.split(",")] if inside else []
    return tuple(part if part in (*NAMED_DIMS, "_") else int(part) for part in parts)

"""What a score or mask function takes: FlexAttention's arguments by position, then sizes by name."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Final

import torch

from attncc.errors import LanguageError
from attncc.frontend.places import Places
from attncc.frontend.tracer import Tracer
from attncc.ir import KV_IDX, Q_IDX, SCORE, B, H, input_
from attncc.source import Span

Function = Callable[..., Any]
POSITIONAL: Final = {
    "score": (SCORE, B, H, Q_IDX, KV_IDX),
    "mask": (B, H, Q_IDX, KV_IDX),
}
SIZES: Final = ("q_len", "kv_len", "batch", "heads")
EXPECTED: Final = {
    "score": "a score function takes (score, b, h, q_idx, kv_idx)",
    "mask": "a mask function takes (b, h, q_idx, kv_idx)",
}
LIKE: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def role_of(function: Function) -> str:
    """Whether a function is a score or a mask function, by its arguments."""
    parameters = _parameters(function)
    needed = [each.name for each in parameters if each.kind in LIKE and each.default is Parameter.empty]
    while len(needed) > len(POSITIONAL["mask"]) and needed[-1] in SIZES:
        needed.pop()  # sizes are asked for after the positions, which may have any name, `batch` too
    count = len(needed)
    many = any(each.kind is Parameter.VAR_POSITIONAL for each in parameters)
    kind = getattr(function, "kind", None)
    if kind in POSITIONAL:
        return str(kind)
    if count in (4, 5) and not many:
        return "mask" if count == 4 else "score"
    if many and count == 0:
        message = "with `*args` it cannot be told whether this is a score or a mask function"
        raise LanguageError(message, place_of(function), f"{EXPECTED['mask']}; {EXPECTED['score']}")
    raise LanguageError(f"{_counted(count)}", place_of(function), f"{EXPECTED['mask']}; {EXPECTED['score']}")


def arguments(tracer: Tracer, function: Function, role: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The traced values that a function is called with."""
    inputs = POSITIONAL[role]
    parameters = _parameters(function)
    many = any(each.kind is Parameter.VAR_POSITIONAL for each in parameters)
    positional = [each for each in parameters if each.kind in LIKE]
    if len(positional) < len(inputs) and not many:
        raise LanguageError(_counted(len(positional)), place_of(function), EXPECTED[role])
    rest = positional[len(inputs) :]
    asked = [*rest, *(each for each in parameters if each.kind is Parameter.KEYWORD_ONLY)]
    named = {}
    for each in asked:
        if each.default is not Parameter.empty:
            continue
        if each.name not in SIZES:
            if each.kind in LIKE:
                raise LanguageError(_counted(len(positional)), place_of(function), _fuller(role))
            raise LanguageError(f"nothing gives the argument `{each.name}`", place_of(function), _fuller(role))
        named[each.name] = tracer.wrap(input_(each.name))
    return tuple(tracer.wrap(each) for each in inputs), named


def _fuller(role: str) -> str:
    return f"{EXPECTED[role]}, and after these any of {', '.join(SIZES)}"


def _counted(count: int) -> str:
    return f"this function takes {count} argument{'s' if count != 1 else ''}"


def _parameters(function: Function) -> list[Parameter]:
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        raise LanguageError(
            f"`{getattr(function, '__name__', function)!s}` is compiled code, which cannot be traced",
            hint="give a Python function",
        ) from None


def code_of(function: Any) -> types.CodeType | None:
    """The code of what a user would call the function."""
    for _ in range(32):
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            return code
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, torch.nn.Module):
            function = function.forward
        else:
            function = (
                getattr(function, "__func__", None)
                or getattr(function, "function", None)
                or type(function).__dict__.get("__call__")
            )
    return None


def place_of(function: Any) -> Span | None:
    """The first line of a function."""
    code = code_of(function)
    return Places(code).definition(code) if code is not None else None


def described(score_mod: Function | None, mask_mod: Function | None) -> str:
    """The name of what two functions make together."""
    names = [_name(each) for each in (score_mod, mask_mod) if each is not None]
    return "_".join(each for each in names if each) or "attention"


def _name(function: Any) -> str:
    """The name that a function was given, if it can be one in a text."""
    name = getattr(function, "__name__", None)
    if name is None and isinstance(function, functools.partial):
        return _name(function.func)
    if name is None:
        name = type(function).__name__
    return name if isinstance(name, str) and name.isidentifier() and name.isascii() else ""

"""The four ways to a variant: from functions, for one call, from a file, from a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from attncc.api.graph import attend_in_graph, is_followed
from attncc.api.inputs import kind_of
from attncc.api.program import Function, Reading, read_functions
from attncc.api.variant import Variant
from attncc.api.warm import attend, options_of
from attncc.errors import InputError
from attncc.source import Source


def compile(score_mod: Function | None = None, mask_mod: Function | None = None, *, name: str | None = None) -> Variant:
    """The variant of a score function (score, b, h, q_idx, kv_idx) and a mask function (b, h, q_idx, kv_idx).

    Raises LanguageError, with the place in the functions, for what has no meaning or cannot be compiled.
    """
    check_functions(score_mod, mask_mod)
    spec = read_functions(score_mod, mask_mod, name).program.spec
    return Variant(spec, score_mod=score_mod, mask_mod=mask_mod)


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Function | None = ...,
    mask_mod: Function | None = ...,
    *,
    name: str | None = ...,
    scale: float | None = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
    block_m: int | None = ...,
    block_n: int | None = ...,
    deterministic: bool | None = ...,
    check_bounds: bool | None = ...,
    refine: bool | None = ...,
    **captures_and_params: Any,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Function | None = ...,
    mask_mod: Function | None = ...,
    *,
    name: str | None = ...,
    scale: float | None = ...,
    return_lse: Literal[True],
    backend: str = ...,
    block_m: int | None = ...,
    block_n: int | None = ...,
    deterministic: bool | None = ...,
    check_bounds: bool | None = ...,
    refine: bool | None = ...,
    **captures_and_params: Any,
) -> tuple[Tensor, Tensor]: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Function | None = ...,
    mask_mod: Function | None = ...,
    *,
    name: str | None = ...,
    scale: float | None = ...,
    return_lse: bool,
    backend: str = ...,
    block_m: int | None = ...,
    block_n: int | None = ...,
    deterministic: bool | None = ...,
    check_bounds: bool | None = ...,
    refine: bool | None = ...,
    **captures_and_params: Any,
) -> Tensor | tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    *,
    name: str | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
    block_m: int | None = None,
    block_n: int | None = None,
    deterministic: bool | None = None,
    check_bounds: bool | None = None,
    refine: bool | None = None,
    **captures_and_params: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """One call of `compile(score_mod, mask_mod)`, with the arguments of a call.

    What was compiled is remembered: new closures with the same code, in each training step say, cost only a look-up.
    """
    check_functions(score_mod, mask_mod)
    options = options_of(backend, block_m, block_n, deterministic, check_bounds, refine)
    if torch.compiler.is_dynamo_compiling() and not captures_and_params and is_followed():
        out, lse, _ = attend_in_graph(score_mod, mask_mod, q, k, v, scale, options, name=name)
        return (out, lse) if return_lse else out

    def read(given: Mapping[str, Any] | None, device: torch.device | None) -> Reading:
        return read_functions(score_mod, mask_mod, name, device).with_values(given or {})

    functions = None if captures_and_params else (score_mod, mask_mod, name)
    return attend(read, q, k, v, scale, options, captures_and_params, return_lse, functions)


def load(path: str | Path, **values: Any) -> Variant:
    """The variant in a file of `.attn` text, with these parameters and captured tensors; reading it runs no code."""
    from attncc.frontend import read_source  # late: the grammar is loaded only where text is read

    return _from_text(read_source(path), values)


def loads(text: str, **values: Any) -> Variant:
    """The variant in a text, with these parameters and captured tensors; reading it runs no code."""
    _check_text(text)
    return _from_text(Source("<string>", text), values)


def check_functions(score_mod: object, mask_mod: object) -> None:
    """Raise InputError for anything that is neither a function nor None."""
    for role, function in (("score_mod", score_mod), ("mask_mod", mask_mod)):
        if function is None or (callable(function) and not isinstance(function, Variant)):
            continue
        hint = "attncc.load takes a path, attncc.loads a text" if isinstance(function, str | Path) else None
        if isinstance(function, Variant):
            hint = "a Variant that was compiled from functions has them as score_mod and mask_mod"
        raise InputError(f"`{role}` must be a function, but is {kind_of(function)}", hint=hint)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        hint = "attncc.load takes a path" if isinstance(text, Path) else None
        raise InputError(f"loads takes text, not {kind_of(text)}", hint=hint)


def _from_text(source: Source, values: dict[str, Any]) -> Variant:
    from attncc.frontend import parse  # late, as above

    numbers = {name: value for name, value in values.items() if isinstance(value, bool | int | float)}
    spec = parse(source, numbers)
    return Variant(spec, values={name: value for name, value in values.items() if name not in numbers})

"""From a name or a variant to a problem that every contender takes."""

from __future__ import annotations

from typing import Any

import torch

from attncc.api import Variant, compile
from attncc.errors import InputError
from attncc.measure.cases import CASES, Function, Shape
from attncc.measure.contenders import Problem
from attncc.measure.functions import torch_functions
from attncc.variants.define import Mod


def case_problem(name: str, shape: Shape, device: str, options: dict[str, Any]) -> Problem:
    """One of the cases that come with attncc. Raises InputError if there is none of that name."""
    if name not in CASES:
        raise InputError(f"there is no case `{name}`", hint=f"the cases are {', '.join(CASES)}")
    score_mod, mask_mod = CASES[name][1](shape, device)
    variant = compile(score_mod, mask_mod, name=name)
    captures = tuple(variant._read().captures.values())  # what a call reads
    return Problem(variant, score_mod, mask_mod, shape, device, captures, options)


def variant_problem(variant: Variant, shape: Shape, device: str, options: dict[str, Any]) -> Problem:
    """A user's variant, which needs nothing more than q, k and v."""
    reading = variant._read(device=torch.device(device))  # what a call reads
    sizes = {"batch": shape.batch, "heads": shape.heads, "q_len": shape.q_len, "kv_len": shape.kv_len}
    if variant.score_mod is None and variant.mask_mod is None:
        functions = torch_functions(
            variant.spec, reading.captures, {**{p.name: p.value for p in reading.spec.parameters}, **sizes}
        )
    else:
        functions = _bound(variant.score_mod, sizes), _bound(variant.mask_mod, sizes)
    return Problem(variant, *functions, shape, device, tuple(reading.captures.values()), options)


def _bound(function: Function | None, sizes: dict[str, int]) -> Function | None:
    """The function with the sizes that it asks for: torch's FlexAttention gives none."""
    if isinstance(function, Mod):
        return function.bind(**{name: sizes[name] for name in function.sizes}) if function.sizes else function.function
    return function

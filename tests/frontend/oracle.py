"""The strongest oracle of the Python front end: the user's own function, called on 0-d tensors.

`agree` traces a function, evaluates the spec on Python numbers, and calls the function itself at the same places.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

from attncc.frontend import parse, trace_functions
from attncc.frontend.trace import Traced
from attncc.ir import evaluate
from attncc.ir.text import print_spec
from attncc.ir.verify import verify

SIZES = {"batch": 2, "heads": 4, "q_len": 10, "kv_len": 12}
BOUNDS = {"b": "batch", "h": "heads", "q_idx": "q_len", "kv_idx": "kv_len"}
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e-30, -3.0, 3.0, 20.5, -40.0, 89.0, math.inf, -math.inf, math.nan)


def read(traced: Traced, score_mod: Any, mask_mod: Any) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The captures and the parameters of a call, by name."""
    values = traced.read(score_mod, mask_mod)
    captures = dict(zip([each.name for each in traced.spec.captures], values.captures, strict=True))
    return captures, dict(zip([each.name for each in traced.spec.parameters], values.parameters, strict=True))


def value(traced: Traced, role: str, at: Mapping[str, Any], functions: tuple[Any, Any]) -> Any:
    """What the spec gives at one pair."""
    captures, parameters = read(traced, *functions)
    root = traced.spec.score if role == "score" else traced.spec.mask

    def load(name: str, index: tuple[int, ...]) -> Any:
        return captures[name][index].item()

    return evaluate(root, {**SIZES, **at, **parameters}, load)


def agree(
    function: Callable[..., Any],
    role: str = "score",
    *,
    count: int = 40,
    tolerance: float = 1e-6,
    sizes: Mapping[str, int] = SIZES,
    named: tuple[str, ...] = (),
    scores: tuple[float, ...] = SPECIAL,
) -> Traced:
    """Trace a function and compare it with itself at random places; what was traced."""
    functions = (function, None) if role == "score" else (None, function)
    traced = trace_functions(*functions)
    verify(traced.spec)
    assert parse(print_spec(traced.spec)) == traced.spec
    draw = random.Random(0)
    given = {name: torch.tensor(sizes[name]) for name in named}
    for i in range(count):
        score = scores[i] if i < len(scores) else draw.gauss(0, 2)
        at = {name: draw.randrange(sizes[size]) for name, size in BOUNDS.items()}
        where = tuple(torch.tensor(each) for each in at.values())
        first = (torch.tensor(score, dtype=torch.float64),) if role == "score" else ()
        wanted = function(*first, *where, **given)
        wanted = wanted.item() if isinstance(wanted, torch.Tensor) else wanted
        found = value(traced, role, {**at, **sizes, "score": score}, functions)
        assert type(found) is (bool if role == "mask" else float), f"{found!r} at {at}"
        assert same(found, wanted, tolerance), f"{found!r}, not {wanted!r}, for score {score} at {at}"
    return traced


def same(found: float, wanted: float, tolerance: float) -> bool:
    """Whether two numbers agree; NaN and infinities agree with themselves."""
    if found != found or wanted != wanted:
        return found != found and wanted != wanted
    return found == wanted or abs(found - wanted) <= tolerance * max(1.0, abs(wanted))

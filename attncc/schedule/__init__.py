"""Choices with their reasons: what a kernel is made for, and how it runs there.

Each name is imported when it is first used: what a kernel is made for is known without the analysis that chooses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attncc.schedule.choose import Schedule, choose_schedule
    from attncc.schedule.guards import Guarded, guard, size_name
    from attncc.schedule.loads import (
        call_box,
        divisions_of,
        loads_of,
        prove_divisions,
        prove_loads,
        prove_plain_loads,
        prove_positive,
    )
    from attncc.schedule.target import TORCH_CPU, Facts, Gradients, Problem, Target

__all__ = [
    "TORCH_CPU",
    "Facts",
    "Gradients",
    "Guarded",
    "Problem",
    "Schedule",
    "Target",
    "call_box",
    "choose_schedule",
    "divisions_of",
    "guard",
    "loads_of",
    "prove_divisions",
    "prove_loads",
    "prove_plain_loads",
    "prove_positive",
    "size_name",
]

_HOMES = {
    "choose": ("Schedule", "choose_schedule"),
    "guards": ("Guarded", "guard", "size_name"),
    "loads": (
        *("call_box", "divisions_of", "loads_of"),
        *("prove_divisions", "prove_loads", "prove_plain_loads", "prove_positive"),
    ),
    "target": ("TORCH_CPU", "Facts", "Gradients", "Problem", "Target"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"attncc.schedule.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'attncc.schedule' has no attribute {name!r}")

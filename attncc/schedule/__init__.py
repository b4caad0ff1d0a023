"""Choices with their reasons: what a kernel is made for, and how it runs there."""

from attncc.schedule.choose import Schedule, choose_schedule
from attncc.schedule.guards import Guarded, guard, size_name
from attncc.schedule.loads import call_box, divisions_of, loads_of, prove_divisions, prove_loads, prove_plain_loads
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
    "size_name",
]

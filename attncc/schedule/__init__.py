"""Choices with their reasons: what a kernel is made for, and how it runs there."""

from attncc.schedule.choose import Schedule, choose_schedule
from attncc.schedule.loads import loads_of, prove_loads
from attncc.schedule.target import TORCH_CPU, Facts, Gradients, Problem, Target

__all__ = [
    "TORCH_CPU",
    "Facts",
    "Gradients",
    "Problem",
    "Schedule",
    "Target",
    "choose_schedule",
    "loads_of",
    "prove_loads",
]

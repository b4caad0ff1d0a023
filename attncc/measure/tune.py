"""Which schedule runs a pass fastest on this GPU: every candidate that fits is compiled, then each is timed.

What is measured is a whole call of the pass, its tables warm. Which candidates there are, which fit and how long they
take come from outside, so that the choice itself can be tried without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from attncc.emit.triton.program import TritonProgram
from attncc.runtime.tuned import Schedule
from attncc.schedule.triton import Schedules

#: Milliseconds of a pass under a program's first choices.
Measure = Callable[[TritonProgram], float]
#: Why a program cannot run under its first choices, or None; compiled for all that are asked together.
Fit = Callable[[Sequence[TritonProgram], str], Sequence[str | None]]
#: A choice has to be this much faster than the tables' own, or the tables stay: times vary by about as much.
MARGIN: Final = 0.01


@dataclass(frozen=True, slots=True)
class Trial:
    """A schedule and its time, or why it has none."""

    schedule: Schedule
    ms: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """All trials of one pass, the tables' first fitting choice first."""

    name: str
    trials: tuple[Trial, ...]

    @property
    def timed(self) -> list[Trial]:
        """The trials that have a time."""
        return [trial for trial in self.trials if trial.ms is not None]

    @property
    def first(self) -> Trial | None:
        """What runs without tuning."""
        return self.timed[0] if self.timed else None

    @property
    def best(self) -> Trial | None:
        """The fastest by more than the margin; what runs without tuning where none is."""
        if self.first is None:
            return None
        fastest = min(self.timed, key=lambda trial: trial.ms or 0.0)
        assert self.first.ms is not None
        assert fastest.ms is not None
        return fastest if fastest.ms < self.first.ms * (1 - MARGIN) else self.first


def tune_pass(
    program: TritonProgram,
    name: str,
    further: Sequence[Schedule],
    fit: Fit,
    measure: Measure,
    observe: Callable[[Trial], None] = lambda trial: None,
) -> Tuning:
    """Time a pass under the tables' choices and further ones; each that does not fit says why."""
    named = [getattr(schedules, name) or schedules.backward_q for schedules in program.schedules.choices(name)]
    chosen = _different([*named, *further])
    programs = [program.rescheduled(_under(program.schedules, name, schedule)) for schedule in chosen]
    trials = []
    for schedule, candidate, reason in zip(chosen, programs, fit(programs, name), strict=True):
        trial = Trial(schedule, note=reason) if reason is not None else _time(schedule, candidate, measure)
        observe(trial)
        trials.append(trial)
    return Tuning(name, tuple(trials))


def _time(schedule: Schedule, program: TritonProgram, measure: Measure) -> Trial:
    try:
        return Trial(schedule, ms=measure(program))
    except RuntimeError as error:  # too much memory, a failed launch: a choice that loses
        return Trial(schedule, note=str(error).splitlines()[0] if str(error) else type(error).__name__)


def _different(schedules: Sequence[Schedule]) -> list[Schedule]:
    """The schedules without repetitions, whatever their reasons."""
    found: dict[Schedule, Schedule] = {}
    for schedule in schedules:
        found.setdefault(replace(schedule, reasons=()), schedule)
    return list(found.values())


def _under(schedules: Schedules, name: str, schedule: Schedule) -> Schedules:
    """The schedules with this one for a pass, and no further choices; backward in two passes."""
    chosen: dict[str, Any] = {name: schedule}
    return replace(schedules, others=(), backward=(), **chosen)

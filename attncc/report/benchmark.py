"""The results of `attncc bench`: as a table for people, as Markdown for a page, as plain values for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

OURS: Final = "attncc"
NOTHING: Final = "–"


@dataclass(frozen=True, slots=True)
class Timing:
    """One implementation on one case: the median time of a pass and what it computes in it, or why there is none.

    `difference` is the largest absolute difference of its output from attncc's.
    """

    case: str
    contender: str
    head_dim: int
    q_len: int
    direction: str
    ms: float | None = None
    tflops: float | None = None
    difference: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All timings of a run, where it ran and on what; `matrix_tflops` is what plain matrix products reach there."""

    device: str
    versions: str
    dtype: str
    matrix_tflops: float | None
    timings: tuple[Timing, ...]

    @property
    def contenders(self) -> list[str]:
        """Everything that was measured beside attncc, where at least one case had a time."""
        timed = {timing.contender for timing in self.timings if timing.ms is not None}
        return [name for name in dict.fromkeys(t.contender for t in self.timings) if name in timed and name != OURS]

    @property
    def groups(self) -> list[list[Timing]]:
        """The timings of each case, size and pass, in the order in which they came."""
        found: dict[tuple[object, ...], list[Timing]] = {}
        for timing in self.timings:
            found.setdefault((timing.case, timing.q_len, timing.head_dim, timing.direction), []).append(timing)
        return list(found.values())

    @property
    def notes(self) -> list[str]:
        """Why times are missing: each reason once, with the cases that it stands for."""
        cases: dict[str, dict[str, None]] = {}
        for timing in self.timings:
            if timing.note is not None:
                cases.setdefault(f"{timing.contender}: {timing.note}", {})[timing.case] = None
        return [f"{reason} ({', '.join(named)})" for reason, named in cases.items()]


def heading(found: Benchmark) -> str:
    """Where the numbers come from, in one line."""
    rate = "" if found.matrix_tflops is None else f"; matrix products reach {_number(found.matrix_tflops)} TFLOP/s"
    return f"{found.device}, {found.versions}, {found.dtype}{rate}"


def columns(found: Benchmark) -> list[str]:
    """The titles of a table's columns."""
    own = ["variant", "length", "D", "pass", f"{OURS}, ms", "TFLOP/s"]
    own += ["share"] if found.matrix_tflops is not None else []
    return [*own, *(title for name in found.contenders for title in (f"{name}, ms", "ratio"))]


def rows(found: Benchmark) -> list[list[str]]:
    """The cells of a table: a ratio above 1 says that attncc is faster."""
    return [_row(found, group) for group in found.groups]


def _row(found: Benchmark, group: Sequence[Timing]) -> list[str]:
    by_name = {timing.contender: timing for timing in group}
    ours, first = by_name.get(OURS), group[0]
    ms, tflops = (None, None) if ours is None else (ours.ms, ours.tflops)
    cells = [first.case, str(first.q_len), str(first.head_dim), first.direction, _time(ms), _number(tflops)]
    if found.matrix_tflops is not None:
        cells.append(NOTHING if tflops is None else f"{100 * tflops / found.matrix_tflops:.0f} %")
    for name in found.contenders:
        theirs = by_name[name].ms if name in by_name else None
        ratio = NOTHING if theirs is None or ms is None else f"{theirs / ms:.2f}"
        cells += [_time(theirs), ratio]
    return cells


def benchmark_table(found: Benchmark) -> Table:
    """The results for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=heading(found), title_justify="left")
    for number, title in enumerate(columns(found)):
        table.add_column(title, justify="left" if number in (0, 3) else "right", no_wrap=number > 0)
    for row in rows(found):
        table.add_row(*row)
    return table


def benchmark_markdown(found: Benchmark) -> str:
    """The results as a table of a page."""
    titles = columns(found)
    lines = [heading(found), "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(found)]
    lines += ["", *(f"- {note}" for note in found.notes)] if found.notes else []
    return "\n".join(lines) + "\n"


def benchmark_dict(found: Benchmark) -> dict[str, Any]:
    """The results as plain values."""
    values = dataclasses.asdict(found)
    for timing in values["timings"]:
        tflops = timing["tflops"]
        known = tflops is not None and found.matrix_tflops is not None
        timing["share"] = tflops / found.matrix_tflops if known else None
    return values


def _time(ms: float | None) -> str:
    return NOTHING if ms is None else f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"

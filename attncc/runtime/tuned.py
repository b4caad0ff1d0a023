"""Schedules that `attncc tune` found best on a device, kept in the cache folder beside the kernels.

A winner belongs to a device, a pass and the very text of the kernel that the tables would run: another variant, dtype,
head size or version of a template is another text, and so nothing measured for one is ever used for the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from attncc.emit.triton.program import TritonProgram
from attncc.runtime import triton_version
from attncc.runtime.cache import Store, default_store, digest
from attncc.schedule.gluon import GluonSchedule
from attncc.schedule.triton import ROWS, AnySchedule, Schedules, TritonSchedule

KIND: Final = "tuned"
Schedule = AnySchedule
#: The kinds of schedules that entries name.
KINDS: Final = {kind.__name__: kind for kind in (TritonSchedule, GluonSchedule)}


@dataclass(frozen=True, slots=True)
class Winner:
    """A schedule that was measured to be the best of `tried`, for one pass on one device.

    `first_ms` is the time of the tables' own first choice, in the same run; `shape` is what was measured, in words.
    """

    variant: str
    name: str
    device: str
    schedule: Schedule
    ms: float
    first_ms: float | None
    tried: int
    date: str
    shape: str

    @property
    def reason(self) -> str:
        """Why this schedule runs, as `explain` words it."""
        s = self.schedule
        before = "" if self.first_ms is None else f", {self.first_ms:.3f} ms for the choice of the tables"
        sizes = f"tiles of {s.tile_q} queries x {s.tile_kv} keys, {workers(s)}"
        times = f"best of {self.tried} ({self.ms:.3f} ms{before}; {self.shape})"
        return f"{sizes}: tuned on {self.device} {self.date}, {times}"


def workers(schedule: Schedule) -> str:
    """How a schedule shares a tile out, in words."""
    if isinstance(schedule, GluonSchedule):
        return f"{schedule.consumers} warpgroups, Gluon, {schedule.stages} stages"
    return f"{schedule.num_warps} warps, {schedule.num_stages} stages"


def keep(program: TritonProgram, winner: Winner, store: Store | None = None) -> None:
    """Keep a winner for a program under the tables' schedules, in the place of a former one."""
    store = store or default_store()
    identity = _identity(program, winner.name, winner.device)
    store.remove(digest(identity))
    facts = {name: getattr(winner, name) for name in ("variant", "ms", "first_ms", "tried", "date", "shape")}
    kind, values = type(winner.schedule).__name__, dataclasses.asdict(winner.schedule)
    values.pop("reasons")
    store.publish(identity, {**facts, "kind": kind, "schedule": values}, {})


def asked(program: TritonProgram, device: str) -> list[str]:
    """The keys under which `with_winners` looks for winners."""
    if _keeps_tiles(program):
        return []
    return [digest(_identity(program, name, device)) for name in ROWS if program.scheduled(name)]


def _keeps_tiles(program: TritonProgram) -> bool:
    problem = program.variant.problem
    return problem.tile_q is not None or problem.tile_kv is not None


def with_winners(program: TritonProgram, device: str, store: Store | None = None) -> TritonProgram:
    """The program with what was found best on a device as its first choices; tile sizes that were asked for stay."""
    if _keeps_tiles(program):
        return program
    store = store or default_store()
    found = {name: _find(program, name, device, store) for name in ROWS if program.scheduled(name)}
    winners = {name: winner for name, winner in found.items() if winner is not None}
    return program.rescheduled(prefer(program.schedules, winners)) if winners else program


def prefer(schedules: Schedules, winners: Mapping[str, Winner]) -> Schedules:
    """The schedules with the winners first; what stood there comes next."""
    others = dict(schedules.others)
    for name in winners:
        before = getattr(schedules, name)
        others[name] = (*([before] if before is not None else []), *others.get(name, ()))
    chosen: dict[str, Any] = {n: replace(w.schedule, reasons=(w.reason,)) for n, w in winners.items()}
    return replace(schedules, **chosen, others=tuple(others.items()))


def all_winners(store: Store | None = None) -> list[tuple[str, Winner]]:
    """Every winner that is kept, with its key."""
    store = store or default_store()
    found = []
    for key in store.all_keys():
        entry = store.load(key)
        if entry is not None and entry.identity.get("kind") == KIND:
            found.append((key, _read(entry.identity, entry.facts)))
    return sorted(found, key=lambda pair: (pair[1].device, pair[1].variant, pair[1].name))


def forget(keys: Sequence[str], store: Store | None = None) -> None:
    """Remove winners; the tables decide again."""
    store = store or default_store()
    for key in keys:
        store.remove(key)


def _find(program: TritonProgram, name: str, device: str, store: Store) -> Winner | None:
    entry = store.load(digest(_identity(program, name, device)))
    return None if entry is None else _read(entry.identity, entry.facts)


def _identity(program: TritonProgram, name: str, device: str) -> dict[str, Any]:
    kernels = [emitted.kernel for emitted in program.scheduled(name)]
    texts = [[kernel.source.digest, [[a.type, a.divisible] for a in kernel.arguments]] for kernel in kernels]
    return {"kind": KIND, "pass": name, "device": device, "kernels": texts, "triton": triton_version.version()}


def _read(identity: Mapping[str, Any], facts: Mapping[str, Any]) -> Winner:
    schedule = KINDS[facts["kind"]](**facts["schedule"])
    plain = {name: facts[name] for name in ("variant", "ms", "first_ms", "tried", "date", "shape")}
    return Winner(name=identity["pass"], device=identity["device"], schedule=schedule, **plain)

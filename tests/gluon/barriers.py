"""Barriers of a program: mbarriers in shared memory, with phases and bytes, and the sixteen named ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.gluon.machine import Clock, Fault, Partition, Program, current, here, join

FIRST_FREE = 8  # Triton takes the named barriers from 0 on: the program, the switch loop, and one for each worker
NAMED = 16


class Mbarriers:
    """An array of mbarriers, which takes the name of the variable that it is bound to."""

    def __init__(self, program: Program, count: int) -> None:
        self.name = ""
        self.barriers: list[Mbarrier] = [Mbarrier(self, i) for i in range(count)]
        program.barriers += self.barriers

    def index(self, i: Any) -> Mbarrier:
        position = int(i)
        if not 0 <= position < len(self.barriers):
            raise Fault("bounds", f"barrier {position} of {len(self.barriers)} in {self.name} {here()}")
        return self.barriers[position]


@dataclass(eq=False)
class Mbarrier:
    """Ends phase after phase, each when `count` arrivals were made and all expected bytes have come.

    `phase` counts ended phases. `told` is what those who arrived knew, `known` what a finished wait may rely on.
    The TMA knows of a barrier from the fence on that follows its making.
    """

    array: Mbarriers
    position: int
    count: int = 0
    pending: int = 0
    missing: int = 0
    phase: int = 0
    fenced: bool = False
    told: Clock = field(default_factory=dict)
    known: Clock = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.array.name}[{self.position}]" if len(self.array.barriers) > 1 else self.array.name

    def init(self, count: int) -> None:
        if self.count:
            raise Fault("barrier", f"{self.name} is initialised again {here()}")
        if count < 1:
            raise Fault("barrier", f"{self.name} is initialised for {count} arrivals {here()}")
        self.count = self.pending = count
        current().unfenced.append(self)

    def invalidate(self) -> None:
        self.count = self.pending = 0

    def arrive(self, count: int) -> None:
        self._check_alive()
        if count > self.pending:
            raise Fault("barrier", f"{self.name} gets more than its {self.count} arrivals {here()}")
        current().tell(self.told)
        self.pending -= count
        self._end_phase(here())

    def expect(self, size: int) -> None:
        self.missing += size
        self.arrive(1)

    def receive(self, size: int, what: str) -> float:
        """Bytes have come; which of the phases they belong to."""
        self.missing -= size
        phase = self.phase + 1
        self._end_phase(what)
        return phase

    def wait(self, parity: int) -> None:
        """Until the phase of this parity has ended, as far as one bit can tell."""
        self._check_alive()
        if parity not in (0, 1):
            raise Fault("barrier", f"a wait for phase {parity} of {self.name}, which is not 0 or 1 {here()}")
        me = current()
        me.machine.pause(lambda: f"a phase of parity {parity} to end: {self.state()}", lambda: self.phase & 1 != parity)
        join(me.clock, self.known)

    def state(self) -> str:
        return f"{self.name} in phase {self.phase} lacks {self.pending} of {self.count} arrivals, {self.missing} bytes"

    def check_exit(self) -> None:
        if self.missing:
            raise Fault("bytes", f"at the end {self.state()}")

    def _check_alive(self) -> None:
        if not self.count:
            raise Fault("barrier", f"{self.name} is used but not initialised {here()}")

    def _end_phase(self, what: str) -> None:
        if self.pending:
            return
        if self.missing < 0:
            raise Fault("bytes", f"{self.name} gets {-self.missing} bytes more than it expects, {what}")
        if self.missing == 0:
            self.phase += 1
            self.pending = self.count
            join(self.known, self.told)
            self.known[self] = self.phase


@dataclass
class NamedBarrier:
    """`arrived` of `threads` are there in this generation, those of `there`."""

    threads: int = 0
    arrived: int = 0
    there: set[Partition] = field(default_factory=set)
    generation: int = 0
    told: Clock = field(default_factory=dict)
    known: Clock = field(default_factory=dict)


class NamedBarriers:
    """The hardware's barriers, by number: `arrive` goes on, `sync` waits for all threads."""

    def __init__(self) -> None:
        self.barriers: defaultdict[int, NamedBarrier] = defaultdict(NamedBarrier)

    def meet(self, number: int, threads: int, waits: bool) -> None:
        """All threads of the running partition come to a barrier of `threads` threads."""
        me = current()
        me.machine.pause()
        barrier = self.barriers[number]
        self._check(number, barrier, threads)
        if me in barrier.there:
            raise Fault("barrier", f"{me.name} comes to named barrier {number} twice while others are missing {here()}")
        barrier.threads = threads
        barrier.there.add(me)
        barrier.arrived += 32 * me.warps
        me.tell(barrier.told)
        if barrier.arrived > threads:
            raise Fault("barrier", f"named barrier {number} gets {barrier.arrived} of {threads} threads {here()}")
        generation = barrier.generation
        if barrier.arrived == threads:
            barrier.arrived = 0
            barrier.there.clear()
            barrier.generation += 1
            join(barrier.known, barrier.told)
        if waits:
            me.machine.pause(
                lambda: f"named barrier {number}, which has {barrier.arrived} of {threads} threads",
                lambda: barrier.generation != generation,
            )
            join(me.clock, barrier.known)

    def _check(self, number: int, barrier: NamedBarrier, threads: int) -> None:
        if not FIRST_FREE <= number < NAMED:
            raise Fault("barrier", f"named barrier {number} is Triton's or does not exist {here()}")
        if threads % 32 or not 0 < threads <= 1024:
            raise Fault("barrier", f"named barrier {number} for {threads} threads {here()}")
        if barrier.arrived and barrier.threads != threads:
            raise Fault(
                "barrier", f"named barrier {number} is for {barrier.threads} and for {threads} threads {here()}"
            )

    def check_exit(self) -> None:
        for number, barrier in self.barriers.items():
            if barrier.arrived:
                found = f"{barrier.arrived} of {barrier.threads} threads"
                raise Fault("barrier", f"named barrier {number} is left with {found}")

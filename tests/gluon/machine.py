"""Programs of a kernel on the CPU: their partitions run one at a time, in an order drawn from a seed.

Each partition is a thread, but only the one that holds the baton runs; it hands the baton on where the hardware could
let others go first. Transfers by the TMA are actors of the same draw, so they end at any later time. What happens
before what is kept in vector clocks: a partition knows of an event only if barriers told it, however lucky the order.
"""

from __future__ import annotations

import itertools
import linecache
import math
import random
import sys
import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from tests.gluon.barriers import Mbarrier, NamedBarriers
    from tests.gluon.memory import Access, Store
    from tests.gluon.products import Product

Kind = Literal[
    "deadlock",  # nobody can go on
    "overwrite",  # shared memory is written while it may still be read or written
    "unordered",  # shared memory is read while it may still be written
    "unfinished",  # the result of a product is used before it was awaited
    "uninitialised",  # shared memory is read that nobody has written
    "barrier",  # a barrier gets more arrivals than it counts, differing counts, or is left half full
    "bytes",  # a barrier expects another number of bytes than arrive
    "fence",  # the TMA or the tensor cores read what was stored without fence_async_shared
    "bounds",  # a pointer leaves its tensor
    "exit",  # a partition ends while its products, loads or stores are under way
    "type",  # what Gluon's types forbid
    "unmodelled",  # what this simulator does not know
]

#: How often an actor is drawn, relative to the others: most keep pace, some lag far behind.
PACES = (1.0, 1.0, 0.05)
TRANSFER_PACES = (1.0, 0.2, 0.02)
REDRAW = 1 / 64  # how often all paces are drawn again
MAX_TURNS = 1_000_000  # a few seconds; whoever spins until then will spin for ever

#: For each partition or barrier, how many of its events are known.
Clock = dict[Hashable, float]


class Fault(Exception):
    """What is wrong with a kernel, and where."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Abandoned(BaseException):
    """Ends the thread of a partition when another one has failed."""


class Transfer(Protocol):
    """Something that the TMA does beside the partitions."""

    pace: float
    program: Program

    def complete(self) -> None: ...

    def describe(self) -> str: ...


def join(clock: Clock, other: Clock) -> None:
    """Know what another clock knows."""
    for actor, time in other.items():
        if clock.get(actor, 0) < time:
            clock[actor] = time


def always() -> bool:
    """Whoever waits for nothing is ready."""
    return True


def its_turn() -> str:
    """What those wait for who wait for nothing."""
    return "its turn"


@dataclass(eq=False)
class Program:
    """One program of the grid: its place there, its barriers, and whether it has ended."""

    index: tuple[int, ...]
    shape: tuple[int, ...]
    barriers: list[Mbarrier] = field(default_factory=list)
    named: NamedBarriers | None = None

    def check_exit(self, transfers: list[Transfer]) -> None:
        """Nothing may be under way or half done when a program ends."""
        for transfer in transfers:
            if transfer.program is self:
                raise Fault("exit", f"{transfer.describe()} is under way when its program ends")
        for barrier in self.barriers:
            barrier.check_exit()
        if self.named is not None:
            self.named.check_exit()


@dataclass(eq=False)
class Partition:
    """Warps that run one function; `clock` is what they know, `unfenced` what they made since their last fence."""

    machine: Machine
    program: Program
    name: str
    warps: int
    call: Callable[[], object]
    clock: Clock
    pace: float
    waits_for: Callable[[], str] = its_turn
    ready: Callable[[], bool] = always
    is_first: bool = False  # of its program, which ends with it
    done: bool = False
    products: list[Product] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    unfenced: list[Access | Mbarrier] = field(default_factory=list)
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.clock[self] = 1

    @property
    def now(self) -> float:
        return self.clock[self]

    @property
    def title(self) -> str:
        programs = math.prod(self.program.shape)
        return self.name if programs == 1 else f"{self.name} of program {self.program.index}"

    def tell(self, clock: Clock) -> None:
        """Let a barrier know all that this partition knows; what comes later is not known to it."""
        join(clock, self.clock)
        self.clock[self] += 1

    def check_exit(self) -> None:
        """Nothing that reads shared memory may outlive its partition."""
        if self.products:
            raise Fault("exit", f"{self.name} ends without a wait for its product {self.products[-1].where}")
        if self.stores:
            raise Fault("exit", f"{self.name} ends without a wait for its TMA store {self.stores[-1].access.where}")


class Machine:
    """Runs the programs of a grid, at most `resident` at a time, in an order drawn from a seed."""

    def __init__(self, file: str, seed: int, slow: Collection[str], resident: int) -> None:
        self.file = file
        self.random = random.Random(seed)
        self.slow = frozenset(slow)
        self.resident = resident
        self.partitions: list[Partition] = []
        self.transfers: list[Transfer] = []
        self.turns = 0
        self.fault: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._starts: Iterator[Partition] = iter(())
        self._ended = threading.Event()

    def run(self, name: str, warps: int, call: Callable[[], object], shape: tuple[int, ...]) -> None:
        """Run a function for every program of a grid. Raises the first Fault of any partition."""
        programs = (Program(index, shape) for index in itertools.product(*(range(n) for n in shape)))
        self._starts = (self.fork(program, name, warps, call, {}) for program in programs)
        for first in itertools.islice(self._starts, self.resident):
            first.is_first = True
        self._pass_on()
        self._ended.wait()
        for thread in self._threads:
            thread.join()
        if self.fault is not None:
            raise self.fault

    def fork(self, program: Program, name: str, warps: int, call: Callable[[], object], clock: Clock) -> Partition:
        """A new partition that knows what `clock` knows; it waits for its first turn."""
        partition = Partition(self, program, name, warps, call, dict(clock), self.random.choice(PACES))
        partition.thread = threading.Thread(target=self._serve, args=(partition,), name=name, daemon=True)
        self.partitions.append(partition)
        self._threads.append(partition.thread)
        partition.thread.start()
        return partition

    def start(self, transfer: Transfer) -> None:
        transfer.pace = self.random.choice(TRANSFER_PACES)
        self.transfers.append(transfer)

    def _serve(self, partition: Partition) -> None:
        _LOCAL.partition = partition
        partition.baton.acquire()
        try:
            if self.fault is None:
                with np.errstate(all="ignore"):
                    partition.call()
                    self._end(partition)
        except Abandoned:
            pass
        except BaseException as error:  # a fault, or a mistake in the kernel or here: `run` raises it
            self._fail(error)

    def _end(self, partition: Partition) -> None:
        partition.check_exit()
        partition.done = True
        self.partitions.remove(partition)
        if partition.is_first:
            partition.program.check_exit(self.transfers)
            for following in itertools.islice(self._starts, 1):
                following.is_first = True
        self._pass_on()

    def _pass_on(self) -> None:
        while self.partitions:
            actor = self._next()
            if isinstance(actor, Partition):
                actor.baton.release()
                return
            self._complete(actor)
        self._ended.set()

    def pause(self, waits_for: Callable[[], str] = its_turn, ready: Callable[[], bool] = always) -> None:
        """Let any others go first, and go on when `ready` says so."""
        me = current()
        me.waits_for, me.ready = waits_for, ready
        while True:
            actor = self._next()
            if isinstance(actor, Partition):
                break
            self._complete(actor)
        if actor is not me:
            actor.baton.release()
            me.baton.acquire()
            if self.fault is not None:
                raise Abandoned
        me.waits_for, me.ready = its_turn, always

    def _complete(self, transfer: Transfer) -> None:
        self.transfers.remove(transfer)
        transfer.complete()

    def _next(self) -> Partition | Transfer:
        self.turns += 1
        if self.random.random() < REDRAW:
            for partition in self.partitions:
                partition.pace = self.random.choice(PACES)
        able: list[Partition | Transfer] = [partition for partition in self.partitions if partition.ready()]
        able += self.transfers
        if not able or self.turns > MAX_TURNS:
            reason = f"no end after {MAX_TURNS} turns" if able else "nobody can go on"
            raise Fault("deadlock", "\n  ".join([reason, *self._waiting()]))
        quick = [actor for actor in able if not self._is_slow(actor)] if self.slow else able
        chosen = quick or able
        return self.random.choices(chosen, [actor.pace for actor in chosen])[0] if len(chosen) > 1 else chosen[0]

    def _is_slow(self, actor: Partition | Transfer) -> bool:
        if isinstance(actor, Partition):
            return actor.name in self.slow or actor.name.split("[")[0] in self.slow
        return "transfers" in self.slow

    def _waiting(self) -> list[str]:
        frames = sys._current_frames()
        return [
            f"{p.title} waits for {p.waits_for()}, {self.place(frames.get(p.thread.ident))}"
            for p in self.partitions
            if p.thread is not None and p.thread.ident is not None
        ]

    def _fail(self, error: BaseException) -> None:
        self.fault = self.fault or error
        for partition in self.partitions:
            partition.baton.release()
        self._ended.set()

    def place(self, frame: FrameType | None) -> str:
        """The lines of the kernel that a frame is at, from the inside outwards."""
        lines = []
        while frame is not None and frame.f_code.co_name != "warp_specialize":
            if frame.f_code.co_filename == self.file:
                lines.append(frame.f_lineno)
            frame = frame.f_back
        if not lines:
            return "outside of the kernel"
        callers = "".join(f", called from line {line}" for line in lines[1:])
        return f"line {lines[0]} `{linecache.getline(self.file, lines[0]).strip()}`{callers}"


_LOCAL = threading.local()


def current() -> Partition:
    """The partition whose thread this is."""
    partition = getattr(_LOCAL, "partition", None)
    if partition is None:
        raise Fault("unmodelled", "a Gluon operation outside of a simulated kernel")
    assert isinstance(partition, Partition)
    return partition


def here() -> str:
    """Where the running partition is."""
    me = current()
    return f"({me.title}, {me.machine.place(sys._getframe())})"

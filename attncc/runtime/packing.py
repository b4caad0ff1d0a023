"""Packs written ahead of time: many kernels compiled by several processes, on a machine without a GPU.

A pack that was interrupted goes on where it stopped: kernels that are already there, whole, are not compiled again.
The index comes last, so that a folder with an index is a finished pack.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attncc.errors import AttnccError, CompileError, InputError, UnsupportedError
from attncc.runtime import triton_version
from attncc.runtime.cache import Store
from attncc.runtime.manifest import Entry, digest
from attncc.runtime.pack import INDEX, Pack, open_pack, write_index
from attncc.runtime.triton_build import Built, compile_entry, identify, unpack

if TYPE_CHECKING:  # a type; the kernels come from the caller
    from attncc.emit.kernel import TritonKernel

Name = TypeVar("Name")
Result = TypeVar("Result")

#: What others may do with a pack: read it.
FOLDER_MODE, FILE_MODE = 0o755, 0o644
WORKING_FOLDERS = ("tmp", "locks")


@dataclass(frozen=True, slots=True)
class Task:
    """A kernel to compile for a target; `labels` say what it is for: the variant, the pass, the dtype."""

    kernel: TritonKernel
    target: str
    labels: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A kernel of the pack that is compiled, or found whole, or refused with an error."""

    key: str
    target: str
    name: str
    error: AttnccError | None = None


def write_pack(
    tasks: Sequence[Task], folder: Path, jobs: int = 1, observe: Callable[[Done], None] = lambda done: None
) -> Pack:
    """Compile kernels into a pack; equal kernels are compiled once. `observe` hears of each as it is done.

    Raises InputError for a folder that holds something else, CompileError if any kernel is refused: then the others are
    kept for the next attempt, and the folder has no index.
    """
    store = prepare(folder)
    version = str(triton_version.version())
    by_key: dict[str, list[Task]] = {}
    for task in tasks:
        by_key.setdefault(digest(identify(task.kernel, task.target, version)), []).append(task)
    for key in set(store.all_keys()) - by_key.keys():
        store.remove(key)
    rows, errors = [], []
    for key, outcome in _compile_all(store, by_key, jobs):
        first = by_key[key][0]
        error = outcome if isinstance(outcome, AttnccError) else None
        observe(Done(key, first.target, first.kernel.source.name, error))
        if isinstance(outcome, AttnccError):
            errors.append(outcome)
        else:
            rows.append(_describe(outcome, by_key[key]))
    if errors:
        raise _collect(errors, len(by_key))
    _finish(folder, version, rows)
    return open_pack(folder)


def build_into(folder: Path) -> Callable[[TritonKernel, str], Built]:
    """Builds kernels as `triton_build.build` does, into the folder of a pack, whatever may be compiled elsewhere."""
    store = Store(folder)

    def build(kernel: TritonKernel, target: str) -> Built:
        key = digest(identify(kernel, target, triton_version.version()))
        entry = store.load(key)
        if entry is None:
            with store.lock(key):
                entry = store.load(key) or compile_entry(kernel, target)
                store.keep(entry)
        return unpack(entry)

    return build


def prepare(folder: Path) -> Store:
    """The store in the folder of a pack, without its index until the pack is finished.

    Raises InputError for a folder that holds something else, UnsupportedError without Triton.
    """
    if triton_version.version() is None:
        raise UnsupportedError("Triton is not installed", hint="pip install triton")
    if folder.is_dir():
        foreign = sorted({path.name for path in folder.iterdir()} - {INDEX, "entries", *WORKING_FOLDERS})
        if foreign:
            raise InputError(f"{folder} holds other things than a pack: {', '.join(foreign)}", hint="name a new folder")
    store = Store(folder)
    if not store.writable:
        raise InputError(f"the folder {folder} cannot be created")
    (folder / INDEX).unlink(missing_ok=True)
    return store


def _compile_all(
    store: Store, by_key: Mapping[str, Sequence[Task]], jobs: int
) -> Iterator[tuple[str, Entry | AttnccError]]:
    """What became of each kernel, in the order in which they are done."""
    missing = {}
    for key, (task, *_) in by_key.items():
        entry = store.load(key)
        if entry is None:
            missing[key] = task
        else:
            yield key, entry
    for key, outcome in spread(compile_entry, {key: (one.kernel, one.target) for key, one in missing.items()}, jobs):
        if isinstance(outcome, Entry):
            store.keep(outcome)
            if store.load(key) is None:
                raise InputError(f"{store.folder} cannot be written", hint="is the disk full?")
        yield key, outcome


def spread(
    function: Callable[..., Result], calls: Mapping[Name, tuple[Any, ...]], jobs: int
) -> Iterator[tuple[Name, Result | AttnccError]]:
    """What a function returns, or the error of attncc that it raises, for each of several calls, as they are done.

    With several jobs the calls run in other processes, so the function and its arguments must be able to travel.
    """
    if jobs == 1:
        for name, arguments in calls.items():
            yield name, _try(lambda arguments=arguments: function(*arguments))  # type: ignore[misc]  # bound at once
        return
    with _workers(min(jobs, len(calls) or 1)) as pool:
        running = {pool.submit(function, *arguments): name for name, arguments in calls.items()}
        for done in as_completed(running):
            yield running[done], _try(done.result)


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes (a fork could inherit locks that a thread holds); they stop when the block is left early."""
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _try(result: Callable[[], Result]) -> Result | AttnccError:
    try:
        return result()
    except AttnccError as error:
        return error
    except BrokenProcessPool as error:
        raise CompileError(
            "a process that compiled was ended from outside, perhaps for want of memory",
            hint="try again with fewer --jobs: what is compiled is kept",
        ) from error


def _describe(entry: Entry, tasks: Sequence[Task]) -> dict[str, Any]:
    """A kernel as the index lists it."""
    labels: list[dict[str, Any]] = []
    for task in tasks:
        if dict(task.labels) not in labels:
            labels.append(dict(task.labels))
    return {
        "key": entry.key,
        "program": entry.identity["program"],
        "entry": entry.identity["entry"],
        "target": entry.identity["target"],
        "num_warps": entry.facts["launch"]["num_warps"],
        "num_stages": entry.identity["num_stages"],
        **entry.facts["resources"],
        "for": sorted(labels, key=lambda one: sorted((name, str(value)) for name, value in one.items())),
    }


def _collect(errors: Sequence[AttnccError], count: int) -> CompileError:
    several = "\n\n".join(str(error) for error in errors[:5])
    more = f"\n\nand {len(errors) - 5} more" if len(errors) > 5 else ""
    return CompileError(f"{len(errors)} of {count} kernels could not be compiled:\n{several}{more}")


def _finish(folder: Path, version: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for name in WORKING_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    write_index(folder, version, sorted(rows, key=lambda row: str(row["key"])))
    for path in (folder, *folder.rglob("*")):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)

"""Kernels whose warps wait for one another, tried in a process of their own before their first use here.

A mistake in such a kernel does not fail: it never ends, and takes the GPU with it. The process replays the case that
the self-test would run; it is stopped when its time is up. It is started when such kernels begin to be compiled, so
that it is ready when they are, serves both passes, and ends when nothing is asked for a while.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from attncc.api.repro import Trial, save
from attncc.config import LOG, settings
from attncc.emit.triton.program import TritonProgram
from attncc.errors import CompileError
from attncc.runtime.apart import Apart, TooSlow
from attncc.runtime.triton_attention import Loaded

#: Seconds that the process may take; it needs about 8, most of them for importing torch.
LIMIT: Final = 120
HINT: Final = 'ATTNCC_GLUON=0 runs the plain Triton kernels; backend="torch" computes without any'

_PROCESSES: list[Apart] = []
_LOCK = threading.RLock()


def may_hang(program: TritonProgram) -> bool:
    """Whether warps of a kernel wait for one another, so that a mistake would stop the GPU."""
    return any(emitted.kernel.gluon for emitted in program.passes.values())


def foresee(program: TritonProgram, device: str) -> None:
    """Start the process that will try kernels which are about to be compiled, if they may hang."""
    if settings().self_test and may_hang(program) and sys.executable:
        _process(device)


def try_out(trial: Trial, loaded: Loaded, limit: float = LIMIT) -> bool:
    """Whether the kernels were found right; False where no process could be had to find out.

    Raises CompileError if they are wrong, or do not end in time.
    """
    if not sys.executable:
        return False
    name = trial.spec.name
    LOG.info("%s: its Hopper kernels are tried in a process of their own, which takes some seconds, once", name)
    parent = Path(tempfile.mkdtemp(prefix="attncc-trial-"))
    try:
        found = _replay(save(trial, loaded, [], parent), trial.device, limit)
    except TooSlow:
        kept = save(trial, loaded, [f"did not end within {limit:g} s"])
        raise CompileError(
            f"the kernels of {name} do not end on {trial.device}: they were stopped after {limit:g} s",
            hint=f"{HINT}; `attncc replay {kept}` tries them again, and may not end",
        ) from None
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    if found.get("wrong"):
        kept = save(trial, loaded, found["wrong"])
        raise CompileError(
            f"the kernels of {name} are wrong on {trial.device}: {'; '.join(found['wrong'])}",
            hint=f"run `attncc replay {kept}` to see it again; {HINT}",
        )
    if "failed" in found:
        why = found["failed"]
        LOG.warning("%s: no other process can use the GPU, so its kernels are tried in this one: %s", name, why)
    return "failed" not in found


def _replay(folder: Path, device: str, limit: float) -> dict[str, Any]:
    """What the other process says: `wrong`, a list of what is, or why it `failed`. Raises TooSlow."""
    with _LOCK:
        for _ in range(2):
            process = _process(device)
            try:
                process.tell(str(folder))
                found = process.answer(limit)
            except TooSlow:
                process.end()
                raise
            if found is not None:
                return found
            if process.wait():  # otherwise it ended because it was asked for nothing, just before it was
                break
        return {"failed": f"it ended with {process.wait()}: {process.complaint}"}


def _process(device: str) -> Apart:
    """The process that is there, or a new one."""
    with _LOCK:
        for process in [each for each in _PROCESSES if not each.lives()]:
            process.end()
            _PROCESSES.remove(process)
        if not _PROCESSES:
            program = (
                f"import sys; sys.path[:] = {sys.path!r}; from attncc.api.replaying import serve; serve({device!r})"
            )
            _PROCESSES.append(Apart([sys.executable, "-c", program]))
        return _PROCESSES[0]


@atexit.register
def end_all() -> None:
    """End the process, if there is one."""
    with _LOCK:
        while _PROCESSES:
            _PROCESSES.pop().end()

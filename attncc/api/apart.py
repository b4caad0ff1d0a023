"""Kernels whose warps wait for one another, tried in a process of their own before their first use here.

A mistake in such a kernel does not fail: it never ends, and takes the GPU with it. The process runs `attncc replay` on
the case that the self-test would run; it is stopped when its time is up.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from attncc.api.repro import Trial, save
from attncc.config import LOG
from attncc.errors import CompileError
from attncc.runtime.triton_attention import Loaded

#: Seconds that the process may take; it needs about 8, most of them for importing torch.
LIMIT: Final = 120
HINT: Final = 'ATTNCC_GLUON=0 runs the plain Triton kernels; backend="torch" computes without any'


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
        folder = save(trial, loaded, [], parent)
        found = _replay(folder, limit)
        if found is None:
            kept = save(trial, loaded, [f"did not end within {limit:g} s"])
            raise CompileError(
                f"the kernels of {name} do not end on {trial.device}: they were stopped after {limit:g} s",
                hint=f"{HINT}; `attncc replay {kept}` tries them again, and may not end",
            )
        if found.returncode == 0:
            return True
        if "WRONG" in found.stdout:
            lines = [line for line in found.stdout.splitlines() if line.startswith("WRONG")]
            kept = save(trial, loaded, lines)
            raise CompileError(
                f"the kernels of {name} are wrong on {trial.device}: {'; '.join(lines)}",
                hint=f"run `attncc replay {kept}` to see it again; {HINT}",
            )
        LOG.warning(
            "%s: no other process can use the GPU, so its kernels are tried in this one: %s", name, _last(found)
        )
        return False
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _replay(folder: Path, limit: float) -> subprocess.CompletedProcess[str] | None:
    """What the other process says; None where it had to be stopped."""
    program = "import sys; sys.path[:] = {}; sys.argv[1:] = {}; from attncc.commands import main; main()"
    program = program.format(repr(sys.path), repr(["replay", str(folder)]))
    try:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None


def _last(found: subprocess.CompletedProcess[str]) -> str:
    lines = found.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with {found.returncode}"

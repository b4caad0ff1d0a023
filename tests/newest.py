"""The newest Triton, which `make newest` puts beside the environment: tests run with it in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".triton-newest"

#: Runs pytest after it has said which Triton it runs with.
PROGRAM = (
    "import sys, pytest, triton; print('Triton', triton.__version__, triton.__file__, flush=True); "
    "sys.exit(pytest.main(sys.argv[1:]))"
)


def newest_version() -> str:
    """The version that `make newest` fetches."""
    found = re.search(r"^NEWEST := triton==(\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def is_there() -> bool:
    """Whether the newest Triton was fetched, whole and in the version that is asked for."""
    return (FOLDER / f"triton=={newest_version()}").exists()


def run_tests(*names: str, seconds: float = 600) -> str:
    """What pytest says of tests that run with the newest Triton before all other packages."""
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", PROGRAM, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    return f"{done.stdout}\n{done.stderr}"

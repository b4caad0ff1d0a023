"""Tests that run in Triton's interpreter.

The interpreter is chosen by TRITON_INTERPRET=1 before triton is first imported, so such a test runs in a process of its
own. `@interpreted` sends a test function, by its name and its parameters, to the one such process that each process of
pytest keeps, and fails with the traceback that comes back.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_NOTE = "the interpreter's process ended"


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    """The test, run in the process of the interpreter; its parameters are plain numbers and texts."""

    @functools.wraps(test)
    def run(**parameters: Any) -> None:
        failure = ask(test.__module__, test.__qualname__, parameters)
        if failure is not None:
            pytest.fail(failure, pytrace=False)

    return run


def ask(module: str, name: str, parameters: dict[str, Any]) -> str | None:
    """None if the function returned, otherwise how it failed."""
    process = worker()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([module, name, parameters]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        worker.cache_clear()
        return f"{TIMEOUT_NOTE} with code {process.wait()} in {name}({parameters})"
    return json.loads(answer)


@cache
def worker() -> subprocess.Popen[str]:
    """The process of the interpreter; it ends with its standard input."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "tests.interpreter"], cwd=ROOT, env=environment, text=True, **pipes)


def stop() -> None:
    """End the process of the interpreter, if there is one."""
    if worker.cache_info().currsize:
        process = worker()
        worker.cache_clear()
        process.stdin.close()
        process.wait()
        process.stdout.close()


def serve() -> None:
    """Answer the questions on standard input; what tests print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for question in sys.stdin:
        print(json.dumps(_answer(*json.loads(question))), file=answers, flush=True)


def _answer(module: str, name: str, parameters: dict[str, Any]) -> str | None:
    try:
        function = getattr(importlib.import_module(module), name)
        unwrapped(function)(**parameters)
    except BaseException:
        return traceback.format_exc()
    return None


def unwrapped(function: Callable[..., None]) -> Callable[..., None]:
    """The test function behind its decorator."""
    return getattr(function, "__wrapped__", function)


if __name__ == "__main__":
    serve()

"""A command in a process of its own with a time limit, and what it prints, line by line, as long as it lives."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from attncc.errors import InputError


class TooSlow(Exception):
    """The process was ended because it took longer than it may; what it printed before counts."""


def run_apart(command: Sequence[str], limit: float) -> Iterator[dict[str, Any]]:
    """Each line of JSON that a command prints. Raises TooSlow after `limit` seconds, InputError if it fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.Queue[str | None] = queue.Queue()
    complaints: list[str] = []
    readers = [
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=lambda: complaints.extend(process.stderr or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        yield from _decoded(lines, time.monotonic() + limit)
        if process.wait():
            readers[1].join(1.0)
            raise InputError(f"the process that measures failed: {_last(complaints)}")
    finally:
        _end(process)
        for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
            reader.join()
            stream.close()


def _pass_on(stream: TextIO, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _decoded(lines: queue.Queue[str | None], until: float) -> Iterator[dict[str, Any]]:
    while True:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise TooSlow from None
        if line is None:
            return
        if line.startswith("{"):  # libraries print what they like
            yield json.loads(line)


def _last(complaints: Sequence[str]) -> str:
    """The last error that was printed, otherwise the last line."""
    said = [line.strip() for line in complaints if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or said or ["it said nothing"])[-1]


def _end(process: subprocess.Popen[str]) -> None:
    """End the process, and those that it has started: compilers, for one."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):  # no groups, or gone meanwhile
            process.kill()
    process.wait()

"""A process of its own with time limits: it is told lines, and answers in lines of JSON as long as it lives."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any


class TooSlow(Exception):
    """The process took longer than it may; what it answered before counts."""


class Apart:
    """A command in a process of its own. Whoever starts it ends it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._complaints: list[str] = []
        reads = (self._process.stdout, self._pass_on), (self._process.stderr, self._complaints.extend)
        self._readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream, read in reads]
        for reader in self._readers:
            reader.start()

    def tell(self, line: str) -> None:
        """Write a line to the process; one that has ended hears nothing, and gives no answer."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def answer(self, limit: float) -> dict[str, Any] | None:
        """The next line of JSON; None where the output has ended. Raises TooSlow after `limit` seconds."""
        until = time.monotonic() + limit
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise TooSlow from None
            if line is None:
                self._lines.put(None)
                return None
            if line.startswith("{"):  # libraries print what they like
                found: dict[str, Any] = json.loads(line)
                return found

    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """How the process ended, which has closed its output."""
        code = self._process.wait()
        self._readers[1].join(1.0)
        return code

    @property
    def complaint(self) -> str:
        """The last error that it printed, otherwise the last line."""
        said = [line.strip() for line in self._complaints if line.strip()]
        errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return (errors or said or ["it said nothing"])[-1]

    def end(self) -> None:
        """End the process, and those that it has started: compilers, for one."""
        if self.lives():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (AttributeError, ProcessLookupError, PermissionError):  # no groups, or gone meanwhile
                self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):  # what it was told and never read
                    stream.close()

    def _pass_on(self, stream: Iterable[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

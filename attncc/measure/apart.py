"""A command that measures in a process of its own with a time limit, and what it prints, line by line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from attncc.errors import InputError
from attncc.runtime.apart import Apart, TooSlow

__all__ = ["TooSlow", "run_apart"]


def run_apart(command: Sequence[str], limit: float) -> Iterator[dict[str, Any]]:
    """Each line of JSON that a command prints. Raises TooSlow after `limit` seconds, InputError if it fails."""
    process, until = Apart(command), time.monotonic() + limit
    try:
        while (found := process.answer(until - time.monotonic())) is not None:
            yield found
        if process.wait():
            raise InputError(f"the process that measures failed: {process.complaint}")
    finally:
        process.end()

"""The text of the demo: source files of Python's standard library, as bytes, packed into sequences.

A document is an excerpt of one file. Several share a sequence; `documents` says which one each byte belongs to, so that
attention can stay within it.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attncc.errors import InputError

VOCABULARY = 256
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__", "lib2to3"})
MAX_EXCERPT = 600


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed bytes. Shapes: tokens [B, L + 1], documents [B, L]; the targets are the tokens one further."""

    tokens: Tensor
    documents: Tensor


def library_files() -> list[Path]:
    """The modules of the running Python's standard library, sorted by their path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    if not files:
        raise InputError(f"there are no source files in {root}", hint="this Python keeps its library elsewhere")
    return sorted(files)


def batches(batch: int, length: int, seed: int) -> Iterator[Batch]:
    """Sequences of packed files without end, the same ones for the same seed."""
    stream = _documents(library_files(), random.Random(seed))
    pending: list[tuple[int, int]] = []
    while True:
        rows = [_pack(stream, pending, length + 1) for _ in range(batch)]
        tokens = torch.tensor([[byte for byte, _ in row] for row in rows])
        numbers = torch.tensor([[number for _, number in row[:-1]] for row in rows])
        yield Batch(tokens, numbers - numbers[:, :1])


def _documents(files: list[Path], choose: random.Random) -> Iterator[tuple[int, bytes]]:
    number = 0
    while True:
        text = _excerpt(choose.choice(files).read_bytes(), choose)
        if text:
            yield number, text
            number += 1


def _excerpt(text: bytes, choose: random.Random) -> bytes:
    """Some of a file, from the beginning of a line on, at most MAX_EXCERPT bytes."""
    start = text.rfind(b"\n", 0, choose.randrange(len(text) + 1)) + 1
    return text[start : start + choose.randint(MAX_EXCERPT // 3, MAX_EXCERPT)]


def _pack(stream: Iterator[tuple[int, bytes]], pending: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The next `length` bytes with the number of their document; what is left over waits in `pending`."""
    while len(pending) < length:
        number, text = next(stream)
        pending += [(byte, number) for byte in text]
    row = pending[:length]
    del pending[: length - 1]  # the last byte is a target here and an input in the next sequence
    return row

"""A digest of everything in attncc that decides which kernels a text becomes: its own sources and its templates."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attncc import __version__
from attncc.resources import PACKAGE, resource_dir

#: The rooms that take part; a test holds that these import no others.
ROOMS: Final = ("ir", "frontend", "passes", "analysis", "schedule", "emit", "runtime")
FILES: Final = ("pipeline.py", "errors.py", "source.py", "config.py", "resources.py")


def sources_digest() -> str:
    """The digest, of the files as they are now: reading them all takes some milliseconds."""
    found = hashlib.sha256(f"{__version__} {sys.version}".encode())
    for path in source_files():
        data = path.read_bytes()
        found.update(f"{path.name} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()


def source_files() -> list[Path]:
    """Every file that the digest is of, in order."""
    rooms = [path for room in ROOMS for path in sorted(_below(str(PACKAGE / room), ".py"))]
    return [
        *map(Path, rooms),
        *(PACKAGE / file for file in FILES),
        *map(Path, sorted(_below(str(resource_dir("templates")), ".j2"))),
    ]


def _below(folder: str, ending: str) -> Iterator[str]:
    """The files below a folder whose names end so."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _below(entry.path, ending)
            elif entry.name.endswith(ending):
                yield entry.path

"""A digest of everything in attncc that decides which kernels a text becomes: its own sources and its templates."""

from __future__ import annotations

import hashlib
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
    for path in sorted(source_files()):
        data = path.read_bytes()
        found.update(f"{path.name} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()


def source_files() -> Iterator[Path]:
    """Every file that the digest is of."""
    for room in ROOMS:
        yield from (PACKAGE / room).rglob("*.py")
    yield from (PACKAGE / file for file in FILES)
    yield from resource_dir("templates").rglob("*.j2")

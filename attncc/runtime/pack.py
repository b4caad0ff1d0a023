"""A pack: kernels compiled ahead of time, as a folder that a program reads and never writes.

A pack has the folders of the cache and an index, `pack.json`, that lists its kernels with their resources. Every
checksum is checked when a kernel is loaded; the index is checked when the pack is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from attncc.config import settings
from attncc.errors import InputError
from attncc.runtime.cache import Store
from attncc.runtime.manifest import FORMAT, canonical, sha256

INDEX = "pack.json"
WRITABLE_BY_ALL = 0o002


@dataclass(frozen=True)
class Pack:
    """A pack on disk: its kernels, the version of Triton that compiled them, and the list of them."""

    store: Store
    triton: str
    kernels: Sequence[Mapping[str, Any]]


def write_index(folder: Path, triton: str, kernels: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of a pack in one step."""
    body = {"format": FORMAT, "triton": triton, "kernels": list(kernels)}
    draft = folder / f".{INDEX}.new"
    draft.write_bytes(canonical(body | {"digest": sha256(canonical(body).encode())}).encode())
    draft.replace(folder / INDEX)


def open_pack(folder: Path) -> Pack:
    """The pack in a folder. Raises InputError if there is none, or if it is not as it was written."""
    try:
        data = (folder / INDEX).read_bytes()
        if folder.stat().st_mode & WRITABLE_BY_ALL:
            raise InputError(f"the pack {folder} can be written by everybody", hint=f"chmod o-w {folder}")
    except OSError as error:
        raise InputError(
            f"{folder} is no pack: {INDEX} cannot be read ({error.strerror})", hint="attncc compile writes packs"
        ) from error
    try:
        body = json.loads(data)
        stated = body.pop("digest")
        whole = canonical(body | {"digest": stated}).encode() == data and stated == sha256(canonical(body).encode())
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"the index of the pack {folder} is damaged", hint="compile the pack again")
    if body["format"] != FORMAT:
        raise InputError(f"the pack {folder} was written by another version of attncc", hint="compile the pack again")
    return Pack(Store(folder, writable=False), body["triton"], body["kernels"])


def settings_pack() -> Pack | None:
    """The pack that ATTNCC_PACK names, if it names one."""
    folder = settings().pack
    return None if folder is None else _open_once(folder)


@lru_cache(maxsize=8)
def _open_once(folder: Path) -> Pack:
    return open_pack(folder)

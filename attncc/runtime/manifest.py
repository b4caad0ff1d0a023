"""What lies in one folder of the cache: a manifest and the files it vouches for, read with every checksum checked.

A manifest is JSON in one canonical form that holds a digest of itself, so that a change of any byte is noticed. Nothing
is unpickled, and nothing outside the folder is read, whatever a manifest says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attncc import __version__
from attncc.errors import InternalError

#: Raise it when the meaning of an entry changes: older entries are then never found.
FORMAT = 1
MANIFEST = "manifest.json"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
KEY = re.compile(r"[0-9a-f]{64}")
#: A manifest is a few kilobytes; whatever is larger than this is none.
MAX_MANIFEST = 1 << 20


class DamageError(Exception):
    """An entry is not what was published: half written, changed, or put there by someone else."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache holds under a key: the identity that made the key, facts about the files, and the files."""

    key: str
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    files: Mapping[str, bytes]


def canonical(value: object) -> str:
    """JSON in its one form: sorted, ASCII, no NaN. Raises InternalError for what JSON cannot say."""
    try:
        return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InternalError(f"this cannot be written into a cache: {error}") from error


def digest(identity: Mapping[str, Any]) -> str:
    """The key of an identity, under the format of this version of the cache."""
    return sha256(canonical({"format": FORMAT, "identity": identity}).encode())


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def make_entry(identity: Mapping[str, Any], facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Entry:
    """An entry, its identity and facts as JSON would return them. Raises InternalError for a name that is no file's."""
    wrong = [name for name in files if not FILE_NAME.fullmatch(name) or name == MANIFEST]
    if wrong:
        raise InternalError(f"these cannot be file names in a cache: {wrong}")
    plain = json.loads(canonical({"identity": identity, "facts": facts}))
    return Entry(digest(identity), plain["identity"], plain["facts"], dict(files))


def describe(entry: Entry) -> str:
    """The text of an entry's manifest."""
    body = {
        "format": FORMAT,
        "attncc": __version__,
        "key": entry.key,
        "identity": entry.identity,
        "facts": entry.facts,
        "files": {name: {"size": len(data), "sha256": sha256(data)} for name, data in entry.files.items()},
    }
    return canonical(body | {"digest": sha256(canonical(body).encode())})


def write_entry(entry: Entry, folder: Path) -> None:
    """Write an entry into an existing empty folder, its manifest last."""
    for name, data in entry.files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(describe(entry).encode())


def read_entry(folder: Path, key: str) -> Entry:
    """The entry in a folder. Raises FileNotFoundError if there is none, DamageError if it is not as published."""
    body = read_manifest(folder, key)
    files = {name: _read_file(folder / name, stated) for name, stated in body["files"].items()}
    return Entry(key, body["identity"], body["facts"], files)


def read_manifest(folder: Path, key: str) -> dict[str, Any]:
    """The manifest in a folder, itself checked, the files not. Raises as `read_entry` does."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
    except FileNotFoundError:
        if folder.is_dir():
            raise DamageError("its manifest is missing") from None
        raise
    except OSError as error:
        raise DamageError(f"its manifest cannot be read: {error.strerror}") from error
    return check_manifest(data, key)


def check_manifest(data: bytes, key: str) -> dict[str, Any]:
    """What a manifest says. Raises DamageError unless it is, byte for byte, one that was published under this key."""
    try:
        body = json.loads(data[: MAX_MANIFEST + 1].decode("ascii"))
        stated = body.pop("digest")
        if canonical(body | {"digest": stated}).encode() != data or stated != sha256(canonical(body).encode()):
            raise DamageError("its manifest is not as it was written")
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError, InternalError) as error:
        raise DamageError("its manifest cannot be understood") from error
    _check_identity(body, key)
    return dict(body)


def _check_identity(body: Mapping[str, Any], key: str) -> None:
    """Refuse what a well-formed manifest may not say: anyone can write one with a right digest."""
    if body.get("format") != FORMAT:
        raise DamageError("it has the format of another version of attncc")
    identity, facts, files = body.get("identity"), body.get("facts"), body.get("files")
    if not (isinstance(identity, dict) and isinstance(facts, dict) and isinstance(files, dict)):
        raise DamageError("its manifest lacks a part")
    if body.get("key") != key or digest(identity) != key:
        raise DamageError("it belongs to another kernel")
    for name, stated in files.items():
        whole = isinstance(stated, dict) and isinstance(stated.get("size"), int) and "sha256" in stated
        if not (FILE_NAME.fullmatch(name) and name != MANIFEST and whole):
            raise DamageError("its manifest names a file that it cannot hold")


def _read_file(path: Path, stated: Mapping[str, Any]) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(stated["size"] + 1)
    except OSError as error:
        raise DamageError(f"{path.name} cannot be read: {error.strerror}") from error
    return check_file(path.name, data, stated)


def check_file(name: str, data: bytes, stated: Mapping[str, Any]) -> bytes:
    """The bytes of a file. Raises DamageError unless they have the size and the checksum that a manifest states."""
    if len(data) != stated["size"] or sha256(data) != stated["sha256"]:
        raise DamageError(f"{name} is not as it was written")
    return data

"""A cache as one file: a tar of whole entries, to be carried to another machine.

Reading one never extracts it: only plain files under a key are looked at, their bytes are checked against the
manifest beside them, and what is whole is published like a kernel that was just compiled. A path cannot lead anywhere.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attncc.errors import InputError
from attncc.runtime.cache import Store
from attncc.runtime.manifest import FILE_NAME, KEY, MANIFEST, DamageError, Entry, check_file, check_manifest, describe

ROOT = "attncc-cache"
MEMBER = re.compile(rf"{ROOT}/(?P<key>{KEY.pattern})/(?P<name>{FILE_NAME.pattern})")
#: A binary has some hundred kilobytes; a file beyond this is none, whatever its size once it is unpacked.
MAX_FILE = 64 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """The keys that were added, those that were there already, and what was wrong with the others."""

    added: tuple[str, ...]
    known: tuple[str, ...]
    damaged: Mapping[str, str]


def export_entries(store: Store, path: Path, keys: Sequence[str] | None = None) -> list[str]:
    """Write the entries of a store, or those with these keys, into a new tar; the keys that it holds.

    Damaged entries are left out. Equal entries make an equal tar.
    """
    entries = [entry for key in (store.all_keys() if keys is None else keys) if (entry := store.load(key)) is not None]
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            draft = Path(file.name)
            with tarfile.open(fileobj=file, mode="w") as tar:
                for entry in entries:
                    _add(tar, entry)
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return [entry.key for entry in entries]


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    for name, data in sorted({**entry.files, MANIFEST: describe(entry).encode()}.items()):
        member = tarfile.TarInfo(f"{ROOT}/{entry.key}/{name}")
        member.size = len(data)
        member.mode = 0o600
        tar.addfile(member, io.BytesIO(data))


def import_entries(store: Store, path: Path) -> Imported:
    """Publish the entries of a tar in a store. Raises InputError for a file that is no such tar."""
    added: list[str] = []
    known: list[str] = []
    damaged: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for key, files in _groups(tar, path):
                try:
                    entry = _check(key, files)
                except DamageError as damage:
                    damaged[key] = str(damage)
                    continue
                (known if store.load(key) is not None else added).append(key)
                store.keep(entry)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is no archive of a cache: {error}", hint="attncc cache export writes one") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return Imported(tuple(added), tuple(known), damaged)


def _groups(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files of each key, which lie together; anything that is no plain file under a key refuses the whole tar."""
    current, files = "", dict[str, bytes]()
    for member in tar:
        found = MEMBER.fullmatch(member.name)
        if found is None or not member.isreg() or member.size > MAX_FILE:
            raise InputError(f"{path} is no archive of a cache: it holds {member.name!r}")
        if found["key"] != current and files:
            yield current, files
            files = {}
        current = found["key"]
        opened = tar.extractfile(member)
        files[found["name"]] = b"" if opened is None else opened.read()
    if files:
        yield current, files


def _check(key: str, files: Mapping[str, bytes]) -> Entry:
    if MANIFEST not in files:
        raise DamageError("its manifest is missing")
    body = check_manifest(files[MANIFEST], key)
    if missing := sorted(body["files"].keys() - files.keys()):
        raise DamageError(f"{', '.join(missing)} missing")
    whole = {name: check_file(name, files[name], stated) for name, stated in body["files"].items()}
    return Entry(key, body["identity"], body["facts"], whole)

"""A content-addressed store on disk: entries go in under the digest of what made them, and come out checked.

Entries are published by renaming a finished folder, so that other processes see all of an entry or nothing, and a
process that is killed leaves no damage. A damaged, foreign or half-written entry counts as absent, with one line in
the log. The store never refuses to work: where its folder cannot be written, new entries live in a private folder as
long as the process. It refuses only a folder that other users could write to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from attncc.config import LOG, settings
from attncc.errors import InternalError
from attncc.runtime.folder import make_private, temporary_folder, usual_folder
from attncc.runtime.manifest import (
    KEY,
    MANIFEST,
    DamageError,
    Entry,
    digest,
    make_entry,
    read_entry,
    read_manifest,
    write_entry,
)

__all__ = ["Entry", "Found", "Store", "default_store", "digest"]

#: Locks only save double work, so nobody waits longer for one than a large kernel takes to compile.
LOCK_SECONDS = 120.0
#: What a killed process left behind is removed after this time; writing an entry takes milliseconds.
STALE_SECONDS = 3600.0
#: A folder that is renamed while somebody reads it is read once more before it counts as damaged.
READS = 3


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as a listing shows it: its size on disk, when it was last used, and what its manifest says."""

    key: str
    size: int
    used: float
    manifest: Mapping[str, Any] | None
    damage: str | None


class Store:
    """A folder of entries; `limit` is in bytes, None for no limit. A store that is not `writable` is only read."""

    def __init__(self, folder: Path, limit: int | None = None, writable: bool = True) -> None:
        self.folder = folder
        self.limit = limit
        self.writable = writable and make_private(folder)
        if writable and not self.writable:
            LOG.warning("%s cannot be created: kernels are kept only as long as this process", folder)
        self._overlay: Store | None = None
        self._guard = threading.Lock()

    def path(self, key: str) -> Path:
        """Where an entry lies, if there is one."""
        if not KEY.fullmatch(key):
            raise InternalError(f"{key!r} is not a key of the cache")
        return self.folder / "entries" / key[:2] / key

    def load(self, key: str) -> Entry | None:
        """The entry under a key, every byte checked, and marked as used; None if there is none."""
        found = self._read(key)
        if found is not None:
            with contextlib.suppress(OSError):  # a store that cannot be written keeps no times
                os.utime(self.path(key) / MANIFEST)
        elif self._overlay is not None:
            found = self._overlay.load(key)
        return found

    def _read(self, key: str) -> Entry | None:
        path = self.path(key)
        for attempt in range(1, READS + 1):
            try:
                return read_entry(path, key)
            except FileNotFoundError:
                return None
            except DamageError as damage:
                if attempt == READS:
                    LOG.warning("the cache entry %s is not used: %s; the kernel is built anew", path, damage)
                    self._discard(path)
        return None

    def publish(self, identity: Mapping[str, Any], facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Entry:
        """Keep an entry; one that is there and whole stays. Returns the entry, even if the disk is full."""
        entry = make_entry(identity, facts, files)
        self.keep(entry)
        return entry

    def keep(self, entry: Entry) -> None:
        """Put an entry where the next process finds it, or at least this one."""
        try:
            self._publish(entry)
        except OSError as error:
            self._keep_private(entry, error)
            return
        self.shrink(spare=entry.key)

    def _publish(self, entry: Entry) -> None:
        if not self.writable:
            raise OSError(errno.EROFS, "read-only")
        target = self.path(entry.key)
        for folder in (target.parent.parent, target.parent):  # one by one: `parents=True` has no mode for parents
            folder.mkdir(mode=0o700, exist_ok=True)
        with self._temporary() as temporary:
            draft = temporary / entry.key
            draft.mkdir(mode=0o700)
            write_entry(entry, draft)
            for _ in range(READS):
                try:
                    draft.replace(target)
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                if self._is_whole(target, entry.key):
                    return
                self._discard(target)
        raise OSError(errno.EEXIST, "in the way")

    @staticmethod
    def _is_whole(path: Path, key: str) -> bool:
        try:
            read_entry(path, key)
        except (DamageError, OSError):
            return False
        return True

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder beside the entries, so that renaming is atomic; gone afterwards."""
        parent = self.folder / "tmp"
        parent.mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep_private(self, entry: Entry, error: OSError) -> None:
        with self._guard:
            if self._overlay is None:
                reason = error.strerror or str(error)
                LOG.warning("%s takes no new kernels (%s): they last as long as this process", self.folder, reason)
                with contextlib.suppress(OSError):
                    self._overlay = Store(temporary_folder())
            overlay = self._overlay
        if overlay is not None:
            with contextlib.suppress(OSError):
                overlay._publish(entry)

    def _discard(self, path: Path) -> None:
        """Take an entry away in one step: first out of sight, then off the disk."""
        if not self.writable:
            return
        with contextlib.suppress(OSError), self._temporary() as folder:
            path.replace(folder / path.name)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to build an entry, so that processes that start together do not all build it.

        Best effort: after `LOCK_SECONDS`, or where the file system has no locks, the block runs all the same.
        """
        # Late, because a process that finds all its kernels in the cache needs no locks.
        from filelock import FileLock, Timeout

        lock = None
        try:
            folder = self.folder / "locks"
            if self.writable:
                folder.mkdir(mode=0o700, exist_ok=True)
                lock = FileLock(folder / f"{key}.lock", timeout=LOCK_SECONDS)
                lock.acquire()
        except (OSError, NotImplementedError, Timeout) as error:
            LOG.info("the lock of %s is not held (%s): the kernel may be built twice", key, error)
            lock = None
        try:
            yield
        finally:
            if lock is not None:
                with contextlib.suppress(OSError):
                    lock.release()

    def all_keys(self) -> list[str]:
        """The keys of all entries, whole or not."""
        return sorted(path.name for path in self.folder.glob("entries/??/*") if KEY.fullmatch(path.name))

    def survey(self, whole: bool = False) -> list[Found]:
        """All entries, the least recently used first; `whole` also reads and checks every file."""
        found = [self._look(key, whole) for key in self.all_keys()]
        return sorted(found, key=lambda one: (one.used, one.key))

    def _look(self, key: str, whole: bool) -> Found:
        path = self.path(key)
        size, used = measure(path)
        try:
            if whole:
                read_entry(path, key)
            return Found(key, size, used, read_manifest(path, key), None)
        except (DamageError, OSError) as damage:
            return Found(key, size, used, None, str(damage))

    def remove(self, key: str) -> None:
        """Remove an entry, whole or not."""
        self._discard(self.path(key))

    def shrink(self, spare: str | None = None) -> list[str]:
        """Remove what was unused for longest until the store fits its limit, and what killed processes left."""
        if not self.writable:
            return []
        self._sweep()
        if self.limit is None:
            return []
        sizes = {key: measure(self.path(key)) for key in self.all_keys()}
        total = sum(size for size, _ in sizes.values())
        removed = []
        for key, (size, _) in sorted(sizes.items(), key=lambda item: item[1][1]):
            if total <= self.limit:
                break
            if key != spare:
                self.remove(key)
                removed.append(key)
                total -= size
        if removed:
            LOG.info("%d kernels were removed to keep %s below %d bytes", len(removed), self.folder, self.limit)
        return removed

    def _sweep(self) -> None:
        """Remove drafts and locks that nobody holds any more."""
        before = time.time() - STALE_SECONDS
        for path in (*self.folder.glob("tmp/*"), *self.folder.glob("locks/*")):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def measure(path: Path) -> tuple[int, float]:
    """Bytes of an entry on disk, and when it was last used (0 for one that never was)."""
    size, used = 0, 0.0
    with contextlib.suppress(OSError):
        for file in path.iterdir():
            found = file.stat()
            size += found.st_size
            if file.name == MANIFEST:
                used = found.st_mtime
    return size, used


@cache
def default_store() -> Store:
    """The store of this user, as the settings say. Raises InputError for a folder that other users can write to."""
    found = settings()
    return Store(found.cache_dir or usual_folder(), found.cache_size)

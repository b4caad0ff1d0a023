"""The folder of a cache on disk: where it is, who may write to it, and private folders that vanish with the process."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

from attncc.errors import InputError

#: What group and others must not have: whoever can write here can choose the code that runs on the GPU.
FOREIGN_WRITE = stat.S_IWGRP | stat.S_IWOTH
OWNER_ONLY = 0o700
CHOOSE = "name another cache folder with ATTNCC_CACHE_DIR, or remove this one"


def usual_folder() -> Path:
    """Where this system keeps caches of this user."""
    # Late: a process that is told its folder, or runs no compiled kernel, does not need it.
    import platformdirs

    return Path(platformdirs.user_cache_dir("attncc", appauthor=False))


def make_private(folder: Path) -> bool:
    """Create a folder for its owner alone, or check an existing one; whether there is one afterwards.

    Raises InputError for a folder that somebody else owns or can write to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
    except OSError:
        try:
            if folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is not a folder", hint=CHOOSE) from None
            if not folder.is_dir():
                return False
        except PermissionError:  # a folder above it is closed to this user
            return False
    check_private(folder)
    return True


def check_private(folder: Path) -> None:
    """Raises InputError for a folder that somebody else owns or can write to."""
    if not hasattr(os, "geteuid"):  # Windows: its user folders are private already
        return
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{folder} belongs to another user, who could choose what runs on your GPU",
            hint=f"{CHOOSE}; kernels that many users share are a pack: attncc compile, then ATTNCC_PACK",
        )
    if found.st_mode & FOREIGN_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        raise InputError(
            f"{folder} can be written by other users (mode {mode:04o}), who could choose what runs on your GPU",
            hint=f"chmod 700 {folder}, after a look at what is in it, or remove it",
        )


def temporary_folder() -> Path:
    """A private folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="attncc-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves its parent's folder alone
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder

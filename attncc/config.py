"""Every environment variable of attncc: its type, default and meaning, declared once and read once.

`settings()` is what the other rooms ask; `read` turns any mapping into `Settings`; `table` prints the documentation.
The log of attncc also lives here, since a setting decides whether it is seen. Nothing else reads the environment.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from attncc.errors import InputError

PREFIX = "ATTNCC_"
LOG = logging.getLogger("attncc")
LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of setting: `read` turns text into a value or raises ValueError; `allowed` names the texts it takes."""

    allowed: str
    read: Callable[[str], object]


def _read_switch(text: str) -> bool:
    return {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}[text.lower()]


def _read_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+) ?(KiB|MiB|GiB|TiB)?", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(text)
    unit = ("", "kib", "mib", "gib", "tib").index((match[2] or "").lower())
    return int(match[1]) << (10 * unit)


def _read_list(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise ValueError(text)
    return items


def _one_of(*choices: str) -> Kind:
    return Kind(", ".join(f"`{choice}`" for choice in choices), lambda text: {c: c for c in choices}[text.lower()])


SWITCH = Kind("`1`, `on`, `true`, `0`, `off`, `false`", _read_switch)
BYTES = Kind("a number of bytes, or of `KiB`, `MiB`, `GiB`, `TiB`", _read_bytes)
FOLDER = Kind("a path", lambda text: Path(text).expanduser())
LIST = Kind("names, separated by commas", _read_list)


def _variable(kind: Kind, default: object, meaning: str, shown: str | None = None) -> Any:
    """A field of `Settings`; `shown` is the default as the documentation says it."""
    return dataclasses.field(default=default, metadata={"kind": kind, "meaning": meaning, "shown": shown})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; the field `cache_dir` is the variable `ATTNCC_CACHE_DIR`, and so on."""

    cache_dir: Path | None = _variable(
        FOLDER, None, "Where compiled kernels are kept.", shown="the cache folder of this user and system"
    )
    cache_size: int = _variable(
        BYTES, 2 << 30, "How large that folder may grow; the kernels unused for longest go first.", shown="`2GiB`"
    )
    disable_jit: bool = _variable(
        SWITCH, False, "Compile nothing: only kernels from the cache or a pack run, anything else is an error."
    )
    log: str | None = _variable(
        _one_of("debug", "info", "warning", "error"),
        None,
        "Write the log of attncc, from this level up, to standard error.",
        shown="no log",
    )
    print_code: bool = _variable(SWITCH, False, "Print each generated kernel to standard error when it is built.")
    pack: Path | None = _variable(
        FOLDER, None, "A pack of compiled kernels, read before the cache and never written.", shown="no pack"
    )
    self_test: bool = _variable(
        SWITCH, True, "Compare each newly built kernel with the reference on a small input before its first use."
    )
    gluon: bool = _variable(
        SWITCH,
        True,
        "Run Gluon kernels on Hopper GPUs, where the installed Triton is one that they are tested with.",
    )
    fast_math: bool = _variable(
        SWITCH,
        True,
        "Take the approximate `tanh` of NVIDIA GPUs for scores of bfloat16 tensors: off by at most 2⁻¹¹ of its result.",
    )
    targets: tuple[str, ...] = _variable(
        LIST, (), "The GPUs to compile for ahead of time, such as `sm_80,sm_90`.", shown="the GPU of this machine"
    )
    check_bounds: str = _variable(
        _one_of("auto", "on", "off"),
        "auto",
        "Whether an index outside a captured tensor raises an error; `auto` means on the CPU only.",
    )


def variable_name(field: str) -> str:
    """The environment variable behind a field of `Settings`."""
    return PREFIX + field.upper()


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in a mapping; an empty value counts as unset. Raises InputError for a value that is not allowed."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        text = environment.get(variable_name(field.name), "").strip()
        if text:
            values[field.name] = _read_value(variable_name(field.name), text, field.metadata["kind"])
    return Settings(**values)


def _read_value(name: str, text: str, kind: Kind) -> object:
    try:
        return kind.read(text)
    except (KeyError, ValueError):
        raise InputError(f"{name} cannot be {text!r}", hint=f"{name} takes {kind.allowed}") from None


@cache
def settings() -> Settings:
    """The settings of this process, read at the first call; `settings.cache_clear()` makes the next call read again."""
    found = read(os.environ)
    _show_log(found.log)
    return found


def _show_log(level: str | None) -> None:
    """Send the log to standard error from `level` up, or nowhere; a second call replaces the first."""
    for handler in list(LOG.handlers):
        if handler.get_name() == PREFIX:
            LOG.removeHandler(handler)
    LOG.setLevel(logging.NOTSET if level is None else level.upper())
    if level is None:
        return
    handler = logging.StreamHandler()
    handler.set_name(PREFIX)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
    LOG.addHandler(handler)


def table() -> str:
    """All variables as a Markdown table."""
    rows = ["| variable | takes | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Settings):
        kind, shown = field.metadata["kind"], field.metadata["shown"] or f"`{_spell(field.default)}`"
        rows.append(f"| `{variable_name(field.name)}` | {kind.allowed} | {shown} | {field.metadata['meaning']} |")
    return "\n".join(rows) + "\n"


def _spell(default: object) -> str:
    return str(int(default)) if isinstance(default, bool) else str(default)

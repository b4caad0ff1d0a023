"""`attncc info`: the versions, devices, settings and folders that this installation sees."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import Any

from rich.table import Table
from rich.text import Text

from attncc import __version__
from attncc.commands.arguments import Json
from attncc.commands.terminal import console, print_json
from attncc.config import Settings, settings, variable_name
from attncc.resources import PACKAGE

PACKAGES = ("torch", "triton", "numpy", "safetensors")


def info(as_json: Json = False) -> None:
    """
    Print versions, devices, settings and the cache folder; put this into a bug report.

    \b
      attncc info
      attncc info --json
    """
    found = collect()
    if as_json:
        print_json(found)
        return
    for title in ("versions", "devices", "folders", "settings"):
        console().print(_table(title, found[title]))


def collect() -> dict[str, Any]:
    """Everything that `info` prints."""
    versions = {"attncc": __version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    versions |= {name: _version(name) for name in PACKAGES}
    now, usual = settings(), Settings()
    names = [field.name for field in dataclasses.fields(Settings)]
    from attncc.runtime.folder import usual_folder

    return {
        "versions": versions,
        "devices": _devices(),
        "folders": {"cache": str(now.cache_dir or usual_folder()), "attncc": str(PACKAGE)},
        "settings": {variable_name(n): _spell(getattr(now, n), getattr(usual, n)) for n in names},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch  # late: the other verbs do not pay for it

    devices = {"cpu": f"{torch.get_num_threads()} threads, {platform.machine()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        devices[f"cuda:{index}"] = f"{properties.name}, sm_{properties.major}{properties.minor}, {memory}"
    return devices


def _spell(value: object, usual: object) -> str:
    if value is None or value == ():
        return "not set"
    shown = ",".join(value) if isinstance(value, tuple) else str(value)
    return shown if value != usual else f"{shown} (default)"


def _table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table

"""`attncc cache`: what the cache of compiled kernels holds, whether it is whole, and how to carry or empty it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from attncc.commands.arguments import Json
from attncc.commands.terminal import console, note, print_json
from attncc.errors import InputError

if TYPE_CHECKING:
    from attncc.runtime.cache import Found, Store

UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))
SHOWN = 12  # characters of a key; any beginning that only one entry has names it

cache = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="List, check, empty, export or import the cache of compiled kernels.",
    rich_markup_mode="rich",
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", "-f", help="Another cache, or a pack.", show_default="the cache of this user"),
]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY]...", help="Only these: beginnings of keys, as listed.")
]
Archive = Annotated[Path, typer.Argument(metavar="FILE.tar", help="The archive.", show_default=False)]


def open_store(folder: Path | None) -> Store:
    """The store in a folder, or that of this user."""
    from attncc.runtime.cache import Store, default_store  # late: `attncc --help` needs no cache

    if folder is None:
        return default_store()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    return Store(folder)


def choose(store: Store, keys: list[str] | None) -> list[str]:
    """The keys that begin with what was given. Raises InputError for a beginning that none or several have."""
    every = store.all_keys()
    if not keys:
        return every
    chosen = []
    for start in keys:
        fitting = [key for key in every if key.startswith(start)]
        if len(fitting) != 1:
            raise InputError(f"{len(fitting)} kernels have a key that begins with {start!r}", hint="attncc cache ls")
        chosen += fitting
    return chosen


@cache.command("ls")
def list_entries(folder: Folder = None, as_json: Json = False) -> None:
    """
    List the kernels, the one unused for longest first.

    \b
      attncc cache ls
      attncc cache ls --folder pack/ --json
    """
    store = open_store(folder)
    found = store.survey()
    if as_json:
        print_json({"folder": str(store.folder), "limit": store.limit, "entries": [_as_json(one) for one in found]})
        return
    if found:
        console().print(_table(found))
    limit = "" if store.limit is None else f" of {spell_bytes(store.limit)}"
    size = spell_bytes(sum(one.size for one in found))
    note(f"{spell_count(len(found))}, {size}{limit}, in {store.folder}")


@cache.command()
def verify(
    folder: Folder = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is damaged.")] = False,
    as_json: Json = False,
) -> None:
    """
    Check every byte of every kernel against its checksum; exit with 1 if one is damaged.

    A damaged kernel never runs: it is compiled again when it is needed.
    """
    store = open_store(folder)
    found = store.survey(whole=True)
    damaged = [one for one in found if one.damage is not None]
    if remove:
        for one in damaged:
            store.remove(one.key)
    if as_json:
        wrong = [{"key": one.key, "damage": one.damage, "removed": remove} for one in damaged]
        print_json({"folder": str(store.folder), "checked": len(found), "damaged": wrong})
    else:
        for one in damaged:
            what = " (removed)" if remove else ""
            console().print(Text.assemble(("damaged", "bold red"), f"  {one.key[:SHOWN]}  {one.damage}{what}"))
        whole = len(found) - len(damaged)
        console().print(Text.assemble((f"{spell_count(whole)} whole", "bold green"), f", {len(damaged)} damaged"))
    if damaged:
        raise typer.Exit(1)


@cache.command()
def clear(
    keys: Keys = None,
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """
    Remove kernels: all of them, or those whose keys begin as given. They are compiled again when needed.

    \b
      attncc cache clear --yes
      attncc cache clear 3f2a91
    """
    store = open_store(folder)
    chosen = choose(store, keys)
    if chosen and not yes and not keys:
        typer.confirm(f"Remove {spell_count(len(chosen))} from {store.folder}?", abort=True, err=True)
    for key in chosen:
        store.remove(key)
    if as_json:
        print_json({"folder": str(store.folder), "removed": chosen})
    else:
        note(f"{spell_count(len(chosen))} removed from {store.folder}")


@cache.command("export")
def export_archive(file: Archive, keys: Keys = None, folder: Folder = None, as_json: Json = False) -> None:
    """
    Write the kernels into a tar, for another machine or another user.

    \b
      attncc cache export kernels.tar
    """
    from attncc.runtime.archive import export_entries  # late, as above

    store = open_store(folder)
    chosen = choose(store, keys)
    written = export_entries(store, file, chosen)
    if as_json:
        print_json({"file": str(file), "exported": written, "damaged": sorted(set(chosen) - set(written))})
        return
    left = f"; {len(chosen) - len(written)} damaged left out" if len(written) < len(chosen) else ""
    note(f"{spell_count(len(written))} written to {file}{left}")


@cache.command("import")
def import_archive(file: Archive, folder: Folder = None, as_json: Json = False) -> None:
    """
    Add the kernels of a tar that `attncc cache export` wrote; every byte is checked. Exit with 1 if one is damaged.

    Kernels are programs for your GPU: import only what comes from somebody whose programs you would run.
    """
    from attncc.runtime.archive import import_entries  # late, as above

    store = open_store(folder)
    found = import_entries(store, file)
    if as_json:
        print_json({"added": list(found.added), "known": list(found.known), "damaged": dict(found.damaged)})
    else:
        for key, damage in found.damaged.items():
            console().print(Text.assemble(("damaged", "bold red"), f"  {key[:SHOWN]}  {damage}"))
        note(f"{spell_count(len(found.added))} added to {store.folder}, {len(found.known)} known already")
    if found.damaged:
        raise typer.Exit(1)


def _as_json(found: Found) -> dict[str, Any]:
    manifest = dict(found.manifest or {})
    described = {name: manifest.get(name) for name in ("identity", "facts", "files", "attncc")}
    return {"key": found.key, "size": found.size, "used": found.used, "damage": found.damage, **described}


def _table(found: list[Found]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("kernel", overflow="fold")
    table.add_column("target", no_wrap=True)
    for title in ("registers", "spills", "shared", "size", "used"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found:
        table.add_row(*_row(one))
    return table


def _row(found: Found) -> list[Text | str]:
    if found.manifest is None:
        return [
            found.key[:SHOWN],
            Text("damaged", style="red"),
            *[""] * 4,
            spell_bytes(found.size),
            "",
        ]
    identity, facts = found.manifest["identity"], found.manifest["facts"]
    resources = facts.get("resources", {})
    taken = [str(resources.get(name, "")) for name in ("registers", "spills", "shared")]
    name = str(facts.get("source", identity.get("kind", "")))
    if "entry" in identity:
        name += f" {identity['entry']}"
    target = str(identity.get("target", ""))
    return [found.key[:SHOWN], Text(name), target, *taken, spell_bytes(found.size), spell_age(time.time() - found.used)]


def spell_count(count: int) -> str:
    """A number of kernels in words."""
    return "1 kernel" if count == 1 else f"{count} kernels"


def spell_bytes(size: int) -> str:
    """A size as people write it."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def spell_age(seconds: float) -> str:
    """How long ago something was, to one unit."""
    for unit, name in AGES:
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return "now"

"""`attncc check`: every mistake in the variants that are named, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from rich.text import Text

from attncc.commands.arguments import Json, Params, Targets, read_params
from attncc.commands.definition import read_definition
from attncc.commands.terminal import complain, complaints, console, print_json
from attncc.errors import AttnccError, LanguageErrors
from attncc.ir.verify import verify


def check(targets: Targets, param: Params = None, as_json: Json = False) -> None:
    """
    Read variants and report every mistake in them, with its place and a hint.

    \b
      attncc check window.attn alibi.attn
      attncc check window.attn --param window=512
      attncc check mymodel.masks:window        (imports mymodel.masks: runs its code)
      attncc check *.attn --json
    """
    parameters = read_params(param)
    found = {target: _mistakes(target, parameters) for target in targets}
    count = sum(map(len, found.values()))
    if as_json:
        print_json([_as_json(target, errors) for target, errors in found.items()])
    else:
        _print(found, count)
    if count:
        raise typer.Exit(1)


def _mistakes(target: str, parameters: Mapping[str, int | float | bool]) -> list[AttnccError]:
    try:
        verify(read_definition(target, parameters).spec)
    except LanguageErrors as several:
        return list(several.errors)
    except AttnccError as error:
        return [error]
    return []


def _print(found: dict[str, list[AttnccError]], count: int) -> None:
    for target, errors in found.items():
        for error in errors:
            complain(error)
            complaints().print()
        if not errors:
            console().print(Text.assemble(("ok", "bold green"), f"  {target}"))
    if count:
        wrong = sum(1 for errors in found.values() if errors)
        mistakes = "1 mistake" if count == 1 else f"{count} mistakes"
        console().print(Text.assemble((mistakes, "bold red"), f" in {wrong} of {len(found)} variants"))


def _as_json(target: str, errors: list[AttnccError]) -> dict[str, Any]:
    return {"target": target, "ok": not errors, "errors": [describe_error(error) for error in errors]}


def describe_error(error: AttnccError) -> dict[str, Any]:
    """An error for programs; lines and columns count from 1, the end column is exclusive."""
    described: dict[str, Any] = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    if error.span is not None:
        line, column = error.span.source.position(error.span.start)
        end_line, end_column = error.span.source.position(error.span.end)
        place = {"line": line, "column": column, "end_line": end_line, "end_column": end_column}
        described |= {"file": error.span.source.name, **place}
    return described

"""What all verbs print in the same way: errors, JSON, notes, and a variant's text."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from attncc.errors import AttnccError

PIPE_WIDTH = 1000  # wider than any table, so that nothing is cut from what a program reads


def console() -> Console:
    """Standard output: coloured in a terminal, plain in a pipe, never wrapping what a program may read."""
    piped = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=piped, width=PIPE_WIDTH if piped else None)


def complaints() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def complain(error: AttnccError) -> None:
    """Draw an error on standard error."""
    complaints().print(draw(error))


def draw(error: AttnccError) -> Text:
    """An error as a terminal shows it: its class, what is wrong, the place with carets, the hint."""
    text = Text()
    for number, line in enumerate(error.describe().split("\n")):
        text.append("\n" if number else "")
        text.append(line, style=_style(line, number))
    return text


def _style(line: str, number: int) -> str:
    bare = line.strip()
    if number == 0:
        return "bold red"
    if bare.startswith("hint:"):
        return "cyan"
    if bare.startswith("|") and set(bare[1:].strip()) == {"^"}:
        return "red"
    return ""


def note(text: str) -> None:
    """A remark for the person at the terminal, on standard error, so that standard output stays what was asked for."""
    complaints().print(Text(text, style="dim"))


def print_json(value: Any) -> None:
    """A value as JSON, for programs; NaN and the infinities are refused, since JSON has none."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))

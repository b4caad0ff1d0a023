"""The texts that users write, and places in them.

A `Source` is a named text; a `Span` is a half-open range of character offsets in one. `draw` shows the lines of a span
with carets below the part that is meant. Nothing here reads files or knows what the text means.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

MAX_DRAWN_LINES = 4
MAX_DRAWN_WIDTH = 160
#: Stands for what a terminal would not show, or would obey.
UNSEEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Source:
    """A text with the name under which its user knows it (a path, `<string>`); `first_line` counts from 1."""

    name: str
    text: str
    first_line: int = 1

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both from 1."""
        before = self.text[:offset]
        return self.first_line + before.count("\n"), offset - (before.rfind("\n") + 1) + 1

    def line(self, number: int) -> str:
        """The text of a line, numbered as `position` does, without its newline; empty past the end."""
        lines = self.text.split("\n")
        index = number - self.first_line
        return lines[index].rstrip("\r") if 0 <= index < len(lines) else ""


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start` to `end` (exclusive) of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters that the span covers."""
        return self.source.text[self.start : self.end]

    @property
    def line(self) -> int:
        """The line on which the span starts."""
        return self.source.position(self.start)[0]

    @property
    def place(self) -> str:
        """`name:line:column`, as editors and terminals understand it."""
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"


def draw(span: Span) -> str:
    """The lines of a span with a gutter of line numbers and carets; long spans and long lines are shortened."""
    first, column = span.source.position(span.start)
    last, last_column = span.source.position(max(span.start, span.end))
    shown = range(first, min(last, first + MAX_DRAWN_LINES - 1) + 1)
    gutter = " " * len(str(shown[-1]))
    rows = [f"{gutter}--> {span.place}", f"{gutter} |"]
    for number in shown:
        line = span.source.line(number)
        start = column - 1 if number == first else len(line) - len(line.lstrip())
        end = last_column - 1 if number == last else len(line)
        text, carets = _underline(line, start, end)
        rows += [f"{number:>{len(gutter)}} | {text}", f"{gutter} | {carets}"]
    if shown[-1] < last:
        rows.append(f"{gutter} | ...")
    return "\n".join(row.rstrip() for row in rows)


def _underline(line: str, start: int, end: int) -> tuple[str, str]:
    """A line with tabs widened, cut around the marked part where it is too long, and its row of carets."""
    line = "".join(c if c.isprintable() or c == "\t" else UNSEEN for c in line)
    left = max(0, min(start, start - MAX_DRAWN_WIDTH // 2)) if len(line) > MAX_DRAWN_WIDTH else 0
    cut = line[left : left + MAX_DRAWN_WIDTH]
    lead = "…" if left else ""
    before, marked = cut[: start - left], cut[start - left : end - left]
    pad = len(lead) + _width(before)
    tail = "…" if left + MAX_DRAWN_WIDTH < len(line) else ""
    return (lead + cut + tail).replace("\t", "    "), " " * pad + "^" * max(1, _width(marked))


def _width(text: str) -> int:
    """Columns that a terminal gives to a text, a tab counting four."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if character == "\t":
        return 4
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

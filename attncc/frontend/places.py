"""Where the user's Python stands: spans of running frames, the construct around them, and the name bound to a result.

A traced function keeps its own code object, so a frame's `co_positions()` names the exact characters of the expression
that runs. Code without a source (typed at a prompt, made by `exec`) has no span; nothing here fails for that.
"""

from __future__ import annotations

import ast
import dis
import itertools
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

from attncc.source import Source, Span

OURS = str(Path(__file__).parent) + os.sep
#: What this room calls; the gallery and the faces of attncc are code like the user's.
BELOW = tuple(str(Path(__file__).parents[1] / name) for name in (f"ir{os.sep}", "errors.py", "source.py"))
TORCH = str(Path(torch.__file__).parent) + os.sep
STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
#: Whose generated code is no user's; what `namedtuple` generates, whoever asked, only makes a tuple.
GENERATING = ("attncc.frontend", "attncc.ir", "attncc.errors", "attncc.source", "namedtuple_")
Region = tuple[int, int, int, int]  # first line, last line, first column, last column; columns in UTF-8 bytes


@lru_cache(maxsize=4096)
def is_library(filename: str) -> bool:
    """Whether code of this file is torch, the standard library or this room: never the user's."""
    if filename.startswith("<frozen "):
        return True
    if filename.startswith((OURS, TORCH, *BELOW)):
        return True
    return filename.startswith(STANDARD) and "site-packages" not in filename and "dist-packages" not in filename


def is_library_frame(frame: FrameType) -> bool:
    """Whether a frame runs library code, generated code such as a dataclass's constructor included."""
    filename = frame.f_code.co_filename
    if filename != "<string>":
        return is_library(filename)
    module = str(frame.f_globals.get("__name__", ""))
    return module.startswith(GENERATING) or module.partition(".")[0] in ("torch", *sys.stdlib_module_names)


class Places:
    """Spans of frames during one trace; remembers positions and sources."""

    def __init__(self, boundary: CodeType) -> None:
        self.boundary = boundary
        self._regions: dict[CodeType, list[Region | None]] = {}
        self._sources: dict[str, tuple[Source, list[int], list[str]] | None] = {}

    def frame(self) -> FrameType | None:
        """The innermost frame of the user's code above the caller; of a library's, where the user's is not running."""
        current: FrameType | None = sys._getframe(1)
        users: FrameType | None = None
        library: FrameType | None = None
        while current is not None and current.f_code is not self.boundary:
            filename = current.f_code.co_filename
            if not is_library(filename):
                users = users or current
            elif not filename.startswith((OURS, *BELOW)):
                library = library or current
            current = current.f_back
        # Without the boundary the function is not running: these frames are those of whoever asked for the trace.
        return (users or library) if current is not None else None

    def span(self, frame: FrameType | None) -> Span | None:
        """The characters of the expression that a frame is evaluating."""
        return self.at(frame.f_code, frame.f_lasti) if frame is not None else None

    def at(self, code: CodeType, offset: int) -> Span | None:
        """The characters of the instruction at an offset of a code object."""
        if code not in self._regions:
            self._regions[code] = [_region(position) for position in code.co_positions()]
        regions = self._regions[code]
        region = regions[offset // 2] if 0 <= offset // 2 < len(regions) else None
        return self.region(code.co_filename, region) if region is not None else None

    def region(self, filename: str, region: Region) -> Span | None:
        """The span of a region of a file."""
        found = self._source(filename)
        if found is None:
            return None
        source, starts, lines = found
        first, last, left, right = region
        if not (1 <= first <= len(lines) and 1 <= last <= len(lines)):
            return None
        start = starts[first - 1] + _characters(lines[first - 1], left)
        return Span(source, start, max(start, starts[last - 1] + _characters(lines[last - 1], right)))

    def definition(self, code: CodeType) -> Span | None:
        """The first line of a function: from `def` or `lambda` to the end of that line."""
        found = self._source(code.co_filename)
        if found is None:
            return None
        lines = found[2]
        for number in range(code.co_firstlineno, min(code.co_firstlineno + 20, len(lines)) + 1):
            line = lines[number - 1].rstrip()
            column = next((at for at in (line.find("def "), line.find("lambda")) if at >= 0), None)
            if column is not None:
                end = len(line.encode())
                return self.region(code.co_filename, (number, number, len(line[:column].encode()), end))
        return None

    def raised(self, traceback: TracebackType | None) -> Span | None:
        """Where the user's code was when it raised: the innermost frame of theirs."""
        found: Span | None = None
        while traceback is not None:
            if not is_library(traceback.tb_frame.f_code.co_filename):
                found = self.at(traceback.tb_frame.f_code, traceback.tb_lasti) or found
            traceback = traceback.tb_next
        return found

    def _source(self, filename: str) -> tuple[Source, list[int], list[str]] | None:
        if filename not in self._sources:
            lines = linecache.getlines(filename)
            starts = [0]
            for line in lines:
                starts.append(starts[-1] + len(line))
            self._sources[filename] = (Source(filename, "".join(lines)), starts, lines) if lines else None
        return self._sources[filename]


def _region(position: tuple[int | None, int | None, int | None, int | None]) -> Region | None:
    first, last, left, right = position
    if first is None or last is None or left is None or right is None:
        return None
    return first, last, left, right


def _characters(line: str, column: int) -> int:
    """A column counted in UTF-8 bytes as one counted in characters."""
    return column if line.isascii() else len(line.encode()[:column].decode(errors="ignore"))


def bound_name(frame: FrameType) -> str | None:
    """The local variable that takes the value being computed, if the next instruction stores it."""
    return _stores(frame.f_code).get(frame.f_lasti)


@lru_cache(maxsize=256)
def _stores(code: CodeType) -> dict[int, str]:
    """For each instruction that is followed by a store to a local variable, the variable's name."""
    instructions = list(dis.get_instructions(code))
    found: dict[int, str] = {}
    for current, after in itertools.pairwise(instructions):
        if after.opname in ("STORE_FAST", "STORE_DEREF", "STORE_FAST_STORE_FAST", "STORE_FAST_LOAD_FAST"):
            name = after.argval[0] if isinstance(after.argval, tuple) else after.argval
            found[current.offset] = str(name)
    return found


def is_augmented(frame: FrameType) -> bool:
    """Whether the instruction that runs is an augmented assignment, as in `x += 1`."""
    code, at = frame.f_code, frame.f_lasti
    operation = next((i for i in dis.get_instructions(code) if i.offset == at), None)
    return operation is not None and operation.opname == "BINARY_OP" and operation.argrepr.endswith("=")


def construct(span: Span | None) -> tuple[ast.AST, ast.AST | None, Span] | None:
    """The syntax at a span, what it is part of, and the span of the whole: for messages only."""
    if span is None:
        return None
    try:
        tree = ast.parse(span.source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for parent, child in _families(tree):
        if isinstance(child, ast.expr) and _covers(child, span):
            return child, parent, span
    return None


def _families(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            yield parent, child


def _covers(expression: ast.expr, span: Span) -> bool:
    """Whether an expression is exactly the text of the span."""
    first, column = span.source.position(span.start)
    last, end = span.source.position(span.end)
    if (expression.lineno, expression.end_lineno) != (first, last) or expression.end_col_offset is None:
        return False
    left = _characters(span.source.line(first), expression.col_offset)
    return (left, _characters(span.source.line(last), expression.end_col_offset)) == (column - 1, end - 1)

"""Faults planted in the text of a kernel, one at a time: what its barriers are for shows when they are wrong.

`mutants` leaves out each call that orders memory, turns each phase round, expects half of the bytes, miscounts
arrivals, waits for one product or store too few, and frees a stage before the wait that the release follows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

#: Calls that stand alone and order memory; a kernel may name more.
ORDERING: Final = (
    *("mbarrier.wait", "mbarrier.arrive", "mbarrier.expect", "mbarrier.init", "tma.store_wait"),
    "fence_async_shared",
)
RELEASES: Final = ("mbarrier.arrive", "release")


@dataclass(frozen=True)
class Mutant:
    """A kernel with one fault; `line` is where, `what` is how it differs."""

    line: int
    what: str
    text: str

    @property
    def name(self) -> str:
        return f"line {self.line}: {self.what}"


@dataclass(frozen=True)
class Edit:
    """A place in a text and what to write there; `what` holds the old text as {}."""

    node: ast.expr | ast.stmt
    new: str
    what: str


def mutants(text: str, ordering: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """Every faulty version; `ordering` names further functions of the kernel whose calls order memory."""
    for function in ast.parse(text).body:
        if isinstance(function, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in function.decorator_list):
            for body in _bodies(function):
                yield from (_apply(text, edit) for edit in _edits(text, body, (*ORDERING, *ordering)))
                yield from _swaps(text, body, (*RELEASES, *ordering))


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(function):
        for part in ("body", "orelse"):
            if isinstance(statements := getattr(node, part, None), list):
                yield statements


def _edits(text: str, body: list[ast.stmt], ordering: tuple[str, ...]) -> Iterator[Edit]:
    for statement in body:
        if not isinstance(statement, ast.Expr | ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        call = statement.value
        name = ast.unparse(call.func)
        if name in ordering:
            yield Edit(statement, "pass", "without {}")
        yield from _wrong_arguments(text, call, name)


def _wrong_arguments(text: str, call: ast.Call, name: str) -> Iterator[Edit]:
    match name:
        case "mbarrier.wait":
            yield Edit(call.args[1], f"({_segment(text, call.args[1])}) ^ 1", "phase {} turned round")
        case "mbarrier.expect":
            yield Edit(call.args[1], f"({_segment(text, call.args[1])}) // 2", "half of {}")
        case "mbarrier.init":
            count = next(keyword.value for keyword in call.keywords if keyword.arg == "count")
            yield Edit(count, f"{_segment(text, count)} + 1", "count {} + 1")
            if ast.unparse(count) != "1":
                yield Edit(count, f"{_segment(text, count)} - 1", "count {} - 1")
        case "warpgroup_mma_wait" | "tma.store_wait":
            yield Edit(call.args[0], f"{_segment(text, call.args[0])} + 1", "waits for all but {} + 1")


def _swaps(text: str, body: list[ast.stmt], releases: tuple[str, ...]) -> Iterator[Mutant]:
    """A release in front of the wait for the products that read what it frees."""
    lines = text.splitlines(keepends=True)
    for wait, release in pairwise(body):
        first, second = ast.unparse(wait), ast.unparse(release)
        if "warpgroup_mma_wait(" in first and second.startswith(tuple(f"{name}(" for name in releases)):
            start, middle, end = wait.lineno - 1, release.lineno - 1, release.end_lineno or release.lineno
            swapped = [*lines[:start], *lines[middle:end], *lines[start:middle], *lines[end:]]
            yield Mutant(release.lineno, f"{second} in front of the wait", "".join(swapped))


def _apply(text: str, edit: Edit) -> Mutant:
    start, end = _span(text, edit.node)
    old = " ".join(_segment(text, edit.node).split())
    return Mutant(edit.node.lineno, edit.what.format(old), f"{text[:start]}{edit.new}{text[end:]}")


def _segment(text: str, node: ast.expr | ast.stmt) -> str:
    start, end = _span(text, node)
    return text[start:end]


def _span(text: str, node: ast.expr | ast.stmt) -> tuple[int, int]:
    """Where a node starts and ends, in characters; kernels are ASCII."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

"""The text of a kernel made tidy: what it never reads is left out, long statements are broken, blocks stand apart."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 120
#: Where a long expression may be broken, the loosest first.
OPERATORS: Final = (" | ", " & ", " >= ", " + ", " - ", " * ", " // ")


def flatten(text: str) -> str:
    """The text without branches that are always taken: what stands below `if True:` moves to its place."""
    lines: list[str] = []
    outer: list[int] = []  # how deep the branches stand that are open
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip())
        while outer and line.strip() and depth <= outer[-1]:
            outer.pop()
        if line.strip() == "if True:":
            outer.append(depth)
        else:
            lines.append(line[4 * len(outer) :] if line.strip() else line)
    return "\n".join(lines)


def prune(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without constants, values and arguments that nothing reads, and the names of those arguments."""
    head, start, text = text.rpartition("import triton\n")
    tree = ast.parse(text)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    inside = {function: _Names.inside(ast.walk(function)) for function in functions}
    others = _Names.inside(each for node in tree.body if node not in inside for each in ast.walk(node))
    whole = _Names([*others.read, *(each for names in inside.values() for each in names.read)], others.given)
    idle_lines: set[int] = set()
    while found := {line for names in (whole, *inside.values()) for line in names.idle_lines(idle_lines)}:
        idle_lines |= found
    text = "\n".join(line for i, line in enumerate(text.split("\n"), 1) if i not in idle_lines)
    read = inside[functions[-1]].read_beside(idle_lines)
    idle = tuple(each.arg for each in functions[-1].args.args if each.arg not in read)
    for name in idle:
        text = re.sub(rf"^(    (?:\w+, )*){name},(?: |$)", r"\1", text, count=1, flags=re.MULTILINE)
    return head + start + re.sub(r"^ +$\n", "", text, flags=re.MULTILINE), idle


@dataclass(frozen=True, slots=True)
class _Names:
    """The names that are read in some nodes, and those that an assignment gives a value to, each with its line."""

    read: list[tuple[str, int]]
    given: list[tuple[str, int]]

    @classmethod
    def inside(cls, nodes: Iterable[ast.AST]) -> _Names:
        names = cls([], [])
        for node in nodes:
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    names.read.append((node.id, node.lineno))
            elif isinstance(node, ast.Assign | ast.AugAssign):
                target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
                if isinstance(target, ast.Name):
                    names.given.append((target.id, node.lineno))
        return names

    def read_beside(self, gone: set[int]) -> set[str]:
        """What is read where these lines are gone."""
        return {name for name, line in self.read if line not in gone}

    def idle_lines(self, gone: set[int]) -> set[int]:
        """Further lines whose value nothing reads where these are gone."""
        read = self.read_beside(gone)
        return {line for name, line in self.given if name not in read and line not in gone}


def wrap(line: str) -> list[str]:
    """A statement in lines that fit, broken inside its largest bracket, otherwise at its loosest operator."""
    if len(line) <= WIDTH:
        return [line]
    code, mark, comment = line.partition("  # ")
    indent = line[: len(line) - len(line.lstrip())]
    if mark and len(code) <= WIDTH:
        return [f"{indent}# {comment}", code]
    at, end = _largest_bracket(code)
    parts = _split(code[at + 1 : end], ",")
    if len(parts) > 1 and at < WIDTH:
        rows = [f"{indent}    {part.strip()}," for part in parts if part.strip()]
        return [f"{code[: at + 1]}{mark}{comment}", *(each for row in rows for each in wrap(row)), indent + code[end:]]
    name, equals, value = code.partition(" = ")
    inside = (code[: at + 1], code[at + 1 : end], indent + code[end:])
    for opening, terms, closing in (inside, (f"{name} = (", value if equals else "", f"{indent})")):
        for operator in OPERATORS:
            if max(len(opening), len(closing)) <= WIDTH and len(parts := _split(terms, operator)) > 1:
                rows = [f"{indent}    {operator.strip() + ' ' if i else ''}{part}" for i, part in enumerate(parts)]
                return [f"{opening}{mark}{comment}", *(each for row in rows for each in wrap(row)), closing]
    return [line]


def _largest_bracket(code: str) -> tuple[int, int]:
    """Where the outermost bracket with most inside opens and closes."""
    best, start, depth = (0, 0), 0, 0
    for i, sign in enumerate(code):
        if sign in "([{":
            start = i if depth == 0 else start
            depth += 1
        elif sign in ")]}":
            depth -= 1
            if depth == 0 and i - start > best[1] - best[0]:
                best = (start, i)
    return best


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return [text]
        if depth == 0 and text.startswith(separator, i) and i >= start:
            parts.append(text[start:i])
            start = i + len(separator)
    return [*parts, text[start:]]


def wrap_prose(lines: Iterable[str]) -> list[str]:
    """The lines of a docstring; the items of its lists are broken."""
    return [
        row
        for line in lines
        for row in (textwrap.wrap(line, WIDTH, subsequent_indent="  ") if line.startswith("- ") else [line])
    ]


def space(lines: Sequence[str]) -> str:
    """The lines with the blank ones that Jinja's line statements swallow put back."""
    spaced: list[str] = []
    for line in lines:
        before = spaced[-1] if spaced else ""
        if line.startswith("@"):
            spaced += ["", ""] if before else [""] if spaced and spaced[-2] else []
        elif _closes(line, before) or _opens(line, before):
            spaced.append("")
        spaced.append(line)
    return "\n".join(spaced).strip("\n") + "\n"


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _closes(line: str, before: str) -> bool:
    """Whether the line stands behind a block that has ended."""
    goes_on = line.strip()[:1] in (")", "]", "") or line.strip().startswith(("else:", "elif "))
    return bool(before) and _depth(line) < _depth(before) and not goes_on


def _opens(line: str, before: str) -> bool:
    """Whether a paragraph begins: with a comment, or with the imports after the docstring."""
    starts = line.startswith("import triton\n") or line.lstrip().startswith("# ")
    return bool(before) and not before.endswith((":", "(")) and (starts or before == '"""')

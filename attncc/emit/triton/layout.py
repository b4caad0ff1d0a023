"""The text of a kernel made tidy: what it never reads is left out, long statements are broken, blocks stand apart."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

WIDTH: Final = 120
#: Where a long expression may be broken, the loosest first.
OPERATORS: Final = (" | ", " & ", " >= ", " + ", " - ", " * ", " // ")


def prune(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without constants, values and arguments that nothing reads, and the names of those arguments."""
    head, start, text = text.rpartition("import triton\n")
    while idle_lines := _idle_lines(ast.parse(text)):
        text = "\n".join(line for i, line in enumerate(text.split("\n"), 1) if i not in idle_lines)
    entry = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)][-1]
    read = _read(entry)
    idle = tuple(each.arg for each in entry.args.args if each.arg not in read)
    for name in idle:
        text = re.sub(rf"^(    (?:\w+, )*){name},(?: |$)", r"\1", text, count=1, flags=re.MULTILINE)
    return head + start + re.sub(r"^ +$\n", "", text, flags=re.MULTILINE), idle


def _idle_lines(tree: ast.Module) -> set[int]:
    """The lines that give a value to a name which nothing reads."""
    found = _unread(tree.body, _read(tree))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        found |= _unread(ast.walk(function), _read(function))
    return found


def _unread(nodes: Iterable[ast.AST], read: set[str]) -> set[int]:
    given = ((node, _target(node)) for node in nodes if isinstance(node, ast.Assign | ast.AugAssign))
    return {node.lineno for node, target in given if isinstance(target, ast.Name) and target.id not in read}


def _target(node: ast.Assign | ast.AugAssign) -> ast.expr:
    return node.target if isinstance(node, ast.AugAssign) else node.targets[0]


def _read(tree: ast.AST) -> set[str]:
    """The names that are read somewhere in it."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


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

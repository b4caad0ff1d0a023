"""From text to syntax tree, and from a text that is no definition to errors that say why.

The grammar stops at the first token that does not fit. To report more than one mistake, the statement around it is
blanked, so that every offset stays what it was, and the rest is read again; the names that such a statement would have
bound are given back, so that their uses are not called unknown.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from attncc.errors import LanguageError
from attncc.frontend.wording import character_error, token_error
from attncc.resources import resource_dir
from attncc.source import Source, Span

MAX_SYNTAX_ERRORS: Final = 10
#: A longer text is read once: each further mistake costs another reading.
MAX_REREAD: Final = 50_000
OPENING: Final = {"(": ")", "[": "]"}
LAYOUT: Final = re.compile(r"#[^\n]*|[()\[\]\n]")
STATEMENT: Final = re.compile(r"[ \t\f]*(?:(?:capture|def|attention)\b|[A-Za-z_]\w*[ \t]*=(?!=))")
TRAILING: Final = re.compile(r"[ \t\f]*(#[^\n]*)?\Z")
BOUND: Final = re.compile(r"[ \t\f]*(?:capture[ \t]+|def[ \t]+)?([A-Za-z_]\w*)")


class _Lines:
    """Between lexer and parser: the end of a line counts only outside parentheses and brackets."""

    always_accept = ("_NEWLINE",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        """The tokens that the grammar sees."""
        depth = 0
        for token in stream:
            depth += {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}.get(token.type, 0)
            if token.type != "_NEWLINE" or depth <= 0:
                yield token


@cache
def grammar() -> Lark:
    """The parser that `grammar/attn.lark` defines."""
    text = (resource_dir("grammar") / "attn.lark").read_text(encoding="utf-8")
    lines: Any = _Lines()
    return Lark(text, parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=True, postlex=lines)


@dataclass(slots=True)
class Reading:
    """What could be read: the tree without the statements in error, the errors, and the names these would bind."""

    tree: Tree[Token] | None = None
    errors: list[LanguageError] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    @property
    def is_headless(self) -> bool:
        """Whether the mistake is in a line without which the others mean nothing."""
        return not self.lost.isdisjoint(("attn", "attention"))


def read_tree(source: Source) -> Reading:
    """The syntax tree of a text, with its line ends already normalised to `\\n`."""
    reading = Reading()
    text = _without_open_brackets(source, reading)
    while len(reading.errors) < MAX_SYNTAX_ERRORS and not reading.is_headless:
        if reading.errors and len(text) > MAX_REREAD:
            break
        try:
            reading.tree = grammar().parse(text)
            break
        except UnexpectedInput as unexpected:
            rest = _without_mistake(source, text, unexpected, reading)
        if rest == text:
            break
        text = rest
    return reading


def _without_mistake(source: Source, text: str, unexpected: UnexpectedInput, reading: Reading) -> str:
    """The text without the statement in error; the same text where reading on makes no sense."""
    start, end = _place(text, unexpected)
    at_end = isinstance(unexpected, UnexpectedToken) and unexpected.token.type == "$END"
    if at_end and reading.errors:
        return text  # the statements that are missing are those in error
    first, last = _statement(text, start)
    if text[start:end].startswith("\n"):  # the end of a line is shown behind its last word
        start = end = first + len(TRAILING.sub("", text[first:start]))
    span = Span(source, start, end)
    if isinstance(unexpected, UnexpectedCharacters):
        reading.errors.append(character_error(span))
    else:
        assert isinstance(unexpected, UnexpectedToken)
        reading.errors.append(token_error(unexpected.token.type, set(unexpected.expected), span, text[first:start]))
    return text if at_end else _blank(text, first, last, reading)


def _place(text: str, unexpected: UnexpectedInput) -> tuple[int, int]:
    """Where the character or the token that does not fit starts and ends."""
    found: Any = unexpected  # lark declares the position as None
    if not isinstance(unexpected, UnexpectedToken):
        return found.pos_in_stream, found.pos_in_stream + 1
    if unexpected.token.type == "$END":
        return len(text.rstrip()), len(text.rstrip())
    return found.token.start_pos, found.token.end_pos


def _statement(text: str, offset: int) -> tuple[int, int]:
    """Where the statement around an offset starts and ends: at ends of lines outside brackets."""
    starts, depth = [0], 0
    for match in LAYOUT.finditer(text):
        sign = match.group()
        depth += 1 if sign in OPENING else -1 if sign in OPENING.values() else 0
        if sign == "\n" and depth == 0:
            starts.append(match.end())
    index = bisect_right(starts, offset) - 1
    return starts[index], starts[index + 1] - 1 if index + 1 < len(starts) else len(text)


def _blank(text: str, first: int, last: int, reading: Reading) -> str:
    bound = BOUND.match(text, first, last)
    if bound is not None:
        reading.lost.add(bound.group(1))
    return text[:first] + re.sub(r"[^\n]", " ", text[first:last]) + text[last:]


def _without_open_brackets(source: Source, reading: Reading) -> str:
    """The text without statements whose brackets do not pair, each of which is an error."""
    text = source.text
    while len(reading.errors) < MAX_SYNTAX_ERRORS:
        unpaired = _unpaired(text)
        if unpaired is None:
            break
        opened, offset, message, hint = unpaired
        reading.errors.append(LanguageError(message, Span(source, offset, offset + 1), hint))
        first = text.rfind("\n", 0, opened) + 1
        text = _blank(text, first, _next_statement(text, offset), reading)
    return text


def _unpaired(text: str) -> tuple[int, int, str, str] | None:
    """The first bracket without its partner: where its statement's brackets begin, its place, and what is wrong.

    A statement that starts inside a bracket shows that it was left open.
    """
    stack: list[int] = []
    for match in LAYOUT.finditer(text):
        sign, offset = match.group(), match.start()
        if sign in OPENING:
            stack.append(offset)
        elif sign in OPENING.values():
            if not stack:
                return offset, offset, f"`{sign}` closes nothing", "remove it, or open it before"
            first, opened = stack[0], text[stack.pop()]
            if OPENING[opened] != sign:
                return first, offset, f"`{opened}` is closed by `{sign}`", f"close it with `{OPENING[opened]}`"
        elif sign == "\n" and stack and STATEMENT.match(text, match.end()):
            break
    if not stack:
        return None
    opened = text[stack[-1]]
    return stack[0], stack[-1], f"`{opened}` is never closed", f"add `{OPENING[opened]}` where the expression ends"


def _next_statement(text: str, offset: int) -> int:
    """Where the statement around an offset ends: before the next line that starts like a statement."""
    end = text.find("\n", offset)
    while end != -1:
        if STATEMENT.match(text, end + 1):
            return end
        end = text.find("\n", end + 1)
    return len(text.rstrip("\n"))

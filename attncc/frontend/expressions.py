"""From the syntax tree of one expression to a typed `Expr`.

Nothing recurses: each expression is a list of its parts in the order of evaluation, and a call of a helper is one more
list on a stack. A part in error gives None, which silences what depends on it, so that independent mistakes are found
together and none is told twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from lark import Token, Tree

from attncc.errors import LanguageError, raise_collected
from attncc.frontend.names import Helper, Names, Node, Value
from attncc.frontend.operations import call_builtin, compare, element, number, operate
from attncc.ir import Expr, Origin
from attncc.ir.verify import MAX_DEPTH
from attncc.source import Source, Span

T = TypeVar("T")

#: How many operations the helpers of one definition may expand to.
MAX_EXPANSION: Final = 200_000
#: Mistakes that are shown, and at which reading stops.
MAX_SHOWN: Final = 20
MAX_ERRORS: Final = 100


@dataclass(slots=True)
class Errors:
    """The mistakes found so far, each once."""

    found: list[LanguageError] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, message: str, span: Span, hint: str | None = None) -> None:
        """Keep a mistake, unless the same was found at the same place. Raises them all when they are too many."""
        key = (message, span.start)
        if key not in self.seen:
            self.seen.add(key)
            self.found.append(LanguageError(message, span, hint))
        if len(self.found) >= MAX_ERRORS:
            self.raise_all()

    def raise_all(self) -> None:
        """Raise the mistakes in the order of the text, of many the first; without any do nothing."""
        ordered = sorted(self.found, key=lambda e: e.span.start if e.span else 0)
        rest = len(ordered) - MAX_SHOWN
        if rest > 1:
            more = f"and {rest} more mistakes" if len(ordered) < MAX_ERRORS else "and many more mistakes"
            ordered = [*ordered[:MAX_SHOWN], LanguageError(more)]
        raise_collected(ordered)


@dataclass(slots=True)
class _Frame:
    """One expression under evaluation: the parts to do, last first, and the values of those done.

    The frame of a helper has the `key` under which its value is remembered, and the `call` in the variant behind it.
    """

    todo: list[Node]
    names: Names
    key: tuple[Any, ...] = ()
    call: Node | None = None
    values: list[Value] = field(default_factory=list)

    def take(self, count: int) -> list[Value]:
        """The values of the last parts, in the order of the text."""
        start = len(self.values) - count
        taken = self.values[start:]
        del self.values[start:]
        return taken


@dataclass(slots=True)
class Typing:
    """The making of the expressions of one definition: what was found wrong, and where each expression was written."""

    source: Source
    errors: Errors = field(default_factory=Errors)
    origins: dict[Expr, Origin] = field(default_factory=dict)
    _depth: dict[Expr, int] = field(default_factory=dict)
    _expanded: dict[tuple[Any, ...], Value] = field(default_factory=dict)
    _steps: int = 0

    def span(self, place: Node | Token) -> Span:
        """The place of a part of the tree."""
        meta: Any = place.meta if isinstance(place, Tree) else place
        return Span(self.source, meta.start_pos, meta.end_pos)

    def evaluate(self, tree: Node, names: Names) -> Value:
        """The expression that a tree means, or None if it holds a mistake, which is then in `errors`."""
        frames = [_Frame(in_order(tree), names)]
        while True:
            frame = frames[-1]
            if frame.todo:
                value = self._step(frame)
                if isinstance(value, _Frame):
                    frames.append(value)
                else:
                    frame.values.append(value)
                continue
            frames.pop()
            (result,) = frame.values
            if not frames:
                return result
            self._expanded[frame.key] = result
            frames[-1].values.append(result)

    def define(self, helper: Helper, names: Names) -> Helper:
        """The helper, marked as broken if its body is wrong whatever its arguments are."""
        before = len(self.errors.found)
        self.evaluate(helper.body, names.inside(helper, [None] * len(helper.arguments)))
        broken = len(self.errors.found) > before
        return Helper(helper.name, helper.arguments, helper.body, broken)

    def keep(self, expr: Expr, span: Span, name: str | None = None) -> None:
        """Remember where an expression was written first, and the name that its author gave it."""
        known = self.origins.get(expr)
        if known is None:
            self.origins[expr] = Origin(span, name)
        elif name is not None and known.name is None:
            self.origins[expr] = Origin(known.span, name)

    def _step(self, frame: _Frame) -> Value | _Frame:
        """The value of the next part, or the frame of the helper that it calls."""
        node = frame.todo.pop()
        operands = frame.take(len(_operands(node)))
        try:
            value = self._value(node, operands, frame)
            if isinstance(value, Expr):
                self.keep(value, self.span(node))
                self._check_depth(value)
        except LanguageError as error:
            call = frame.call
            called = f"`{call.children[0]}` is called in line {self.span(call).line}" if call else None
            hint = "; ".join(part for part in (error.hint, called) if part) or None
            self.errors.add(error.message, error.span or self.span(node), hint)
            return None
        return value

    def _value(self, node: Node, operands: list[Value], frame: _Frame) -> Value | _Frame:
        spans = [self.span(part) for part in _operands(node)]
        names = frame.names
        match node.data:
            case "name":
                return names.value(str(node.children[0]))
            case "integer" | "real":
                return number(str(node.children[0]))
            case "neg" if not operands:  # the sign belongs to the number: -9223372036854775808 fits in 64 bits
                (literal,) = node.children
                assert isinstance(literal, Tree)
                return number(f"-{literal.children[0]}")
            case "element":
                return element(self._look_up(names.capture, node), operands, spans)
            case "comparison":
                return compare([str(sign) for sign in node.children[1::2]], operands)
            case "call":
                helper = self._look_up(names.helper, node)
                if helper is not None:
                    return self._expand(helper, node, operands, frame)
                name = str(node.children[0])
                return call_builtin(name, operands, spans) if names.is_built_in(name) else None
            case _:
                return operate(str(node.data), operands, spans)

    def _look_up(self, find: Callable[[str], T], node: Node) -> T:
        """What the name at the head of a call or of an index means; a mistake in it is shown below the name alone."""
        (name, *_) = node.children
        try:
            return find(str(name))
        except LanguageError as error:
            raise LanguageError(error.message, self.span(name), error.hint) from None

    def _expand(self, helper: Helper, node: Node, operands: list[Value], frame: _Frame) -> Value | _Frame:
        """The value of a helper for these arguments, if it is known already, or the frame that finds it."""
        if len(operands) != len(helper.arguments):
            wanted = f"{helper.name}({', '.join(helper.arguments)})"
            raise LanguageError(
                f"`{wanted}` is called with {_count(len(operands), 'argument')}", hint=f"write `{wanted}`"
            )
        if helper.broken or None in operands:
            return None
        key = (helper.name, *operands)
        if key in self._expanded:
            return self._expanded[key]
        todo, call = in_order(helper.body), frame.call or node
        was_short, self._steps = self._steps <= MAX_EXPANSION, self._steps + len(todo)
        if self._steps > MAX_EXPANSION:
            if was_short:
                message = f"this call expands to more than {MAX_EXPANSION:,} operations"
                self.errors.add(message, self.span(call), "helpers that call helpers twice grow fast")
            return None
        return _Frame(todo, frame.names.inside(helper, operands), key, call)

    def _check_depth(self, expr: Expr) -> None:
        depth, pending = self._depth, [expr]
        while pending:
            missing = [arg for arg in pending[-1].args if arg not in depth]
            if missing:
                pending += missing
            else:
                done = pending.pop()
                depth[done] = 1 + max((depth[arg] for arg in done.args), default=0)
        if depth[expr] > MAX_DEPTH:
            message = f"this expression is more than {MAX_DEPTH} operations deep"
            raise LanguageError(message, hint="store what repeats in a tensor")


def in_order(tree: Node) -> list[Node]:
    """The parts of an expression, operands before what uses them, the first to do at the end."""
    order, stack = [], [tree]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(_operands(node))
    return order


def _operands(node: Node) -> Sequence[Node]:
    """The parts of an expression that are expressions."""
    children: list[Any] = node.children
    match node.data:
        case "name" | "integer" | "real":
            return ()
        case "call" | "element":
            return children[1].children if children[1] is not None else ()
        case "comparison":
            return children[::2]
        case "neg" if children[0].data == "integer":
            return ()
        case _:
            return children


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

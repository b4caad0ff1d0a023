"""Specs and expressions as `.attn` text: canonical, with the fewest parentheses, and parsed back to the same nodes.

A node that is used twice, or lies deeper than 40, is bound to a name. A conversion that reading the text makes anyway
is not printed. Nothing recurses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final, Literal

from attncc.errors import LanguageError
from attncc.ir.build import apply, narrow
from attncc.ir.expr import SCORE, TRUE, Expr, Op, Scalar, Value, postorder
from attncc.ir.naming import Naming
from attncc.ir.spec import AttentionSpec, Capture, Origin
from attncc.ir.syntax import FUNCTIONS, KEYWORDS, OPERATORS, VERSION, Level

MAX_NESTING: Final = 40
UNNAMED: Final = "variant"
#: What reading `&`, `|` and `^` asks for; the kinds of the operands decide between logic and bits.
READ_AS: Final = {Op.BIT_AND: Op.AND, Op.BIT_OR: Op.OR, Op.BIT_XOR: Op.XOR}
CALLED: Final = {op: name for name, op in FUNCTIONS.items()}


def print_spec(spec: AttentionSpec, *, names: Literal["canonical", "user"] = "canonical", origins: bool = False) -> str:
    """The text of a spec. Names are by content, so that equal specs print alike, or the author's where they fit.

    `origins` adds where each line was written, as comments.
    """
    taken = [*(capture.name for capture in spec.captures), *(parameter.name for parameter in spec.parameters)]
    score = spec.score
    if score.op is Op.CAST and score.args[0].scalar is Scalar.INDEX:  # an int score becomes a float
        (score,) = score.args
    roots = {"mask": spec.mask, "score": score}
    if spec.mask is TRUE and spec.score is not SCORE:
        del roots["mask"]
    if spec.score is SCORE:
        del roots["score"]
    bindings = _Writer(Naming(taken, spec.origins if names == "user" else None)).write(roots)
    places = spec.origins if origins else {}
    body = [f"{name} = {text}{_comment(places.get(expr))}" for name, text, expr in bindings]
    captures = [f"capture {capture.name}: {describe_capture(capture)}" for capture in spec.captures]
    rows = [f"attn {VERSION}", f"attention {_title(spec)}:", *(f"  {line}" for line in (*captures, *body))]
    return "".join(f"{row}\n" for row in rows)


def print_expr(expr: Expr) -> str:
    """The text of an expression: a line for each name that it binds, then the expression itself."""
    *bound, (_, text, _) = _Writer(Naming(_names_in(expr))).write({"": expr})
    return "\n".join([*(f"{name} = {value}" for name, value, _ in bound), text])


def _names_in(expr: Expr) -> set[str]:
    return {str(e.value) for e in postorder(expr) if e.op in (Op.INPUT, Op.PARAM, Op.LOAD)}


def _title(spec: AttentionSpec) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", spec.name).strip("_") or UNNAMED
    name = f"_{name}" if name[0].isdigit() else UNNAMED if name in KEYWORDS else name
    parameters = ", ".join(f"{p.name}: int = {p.value}" for p in spec.parameters)
    return f"{name}({parameters})" if parameters else name


def describe_capture(capture: Capture) -> str:
    """The kind and the sizes of a captured tensor, as its declaration says them."""
    dims = ", ".join(map(str, capture.dims))
    return f"{capture.scalar}[{dims}]" if dims else str(capture.scalar)


def _comment(origin: Origin | None) -> str:
    if origin is None or origin.span is None:
        return ""
    return f"  # {PurePath(origin.span.source.name).name}:{origin.span.line}"


Binding = tuple[str, str, Expr]


class _Writer:
    """One printing: what is bound to which name, and the text of every node at its level."""

    def __init__(self, naming: Naming) -> None:
        self.naming = naming
        self.bound: dict[Expr, str] = {}
        self.text: dict[Expr, tuple[str, Level]] = {}
        self.nesting: dict[Expr, int] = {}

    def write(self, roots: Mapping[str, Expr]) -> list[Binding]:
        """The bindings of all names, in an order in which each can be read, the roots' own among them."""
        uses, order = _arrange(list(roots.values()))
        lines: list[Binding] = []
        for name, root in roots.items():
            for expr in order[root]:
                text, level = self._spell(expr)
                self.nesting[expr] = 1 + max((self.nesting[part] for part in shown_operands(expr)), default=-1)
                self.text[expr] = text, level
                if expr is not root and self._deserves_name(expr, uses[expr]):
                    self._bind(expr, self.naming.name(expr))
                    lines.append((self.bound[expr], text, expr))
            lines.append((name, self.text[root][0], root))
            if name and shown_operands(root):
                self._bind(root, name)
        return lines

    def _deserves_name(self, expr: Expr, uses: int) -> bool:
        if not shown_operands(expr):
            return False
        return uses > 1 or self.nesting[expr] >= MAX_NESTING or self.naming.author_name(expr) is not None

    def _bind(self, expr: Expr, name: str) -> None:
        self.bound[expr] = name
        self.text[expr] = name, Level.ATOM
        self.nesting[expr] = 0

    def _spell(self, expr: Expr) -> tuple[str, Level]:
        parts = shown_operands(expr)
        if expr.op in OPERATORS:
            return self._spell_operator(expr, parts)
        texts = [self.text[part][0] for part in parts]
        match expr.op:
            case Op.CONST:
                return _spell_constant(expr.value)
            case Op.INPUT | Op.PARAM:
                return str(expr.value), Level.ATOM
            case Op.LOAD:
                return f"{expr.value}[{', '.join(texts)}]" if texts else str(expr.value), Level.ATOM
            case Op.MIN | Op.MAX if parts[0].op is expr.op and parts[0] not in self.bound:  # min(min(a, b), c)
                return f"{texts[0][:-1]}, {texts[1]})", Level.ATOM
            case Op.CAST:
                name = str(expr.scalar)
            case Op.NARROW:
                name = str(expr.value)
            case _:
                name = CALLED[expr.op]
        return f"{name}({', '.join(texts)})", Level.ATOM

    def _spell_operator(self, expr: Expr, parts: tuple[Expr, ...]) -> tuple[str, Level]:
        symbol, level, needed = OPERATORS[expr.op]
        texts = []
        for part, least in zip(parts, needed, strict=True):
            text, held = self.text[part]
            doubled = expr.op is Op.NEG and text.startswith("-")
            texts.append(f"({text})" if held < least or doubled else text)
        if len(texts) == 1:
            return f"{symbol}{' ' if symbol.isalpha() else ''}{texts[0]}", level
        return f"{texts[0]} {symbol} {texts[1]}", level


def _arrange(roots: list[Expr]) -> tuple[Counter[Expr], dict[Expr, list[Expr]]]:
    """How often each node is shown, and for each root the nodes that no root before it shows, operands first."""
    uses: Counter[Expr] = Counter(roots)
    done: set[Expr] = set()
    order: dict[Expr, list[Expr]] = {}
    for root in roots:
        order[root] = []
        stack = [(root, False)]
        while stack:
            expr, is_ready = stack.pop()
            if is_ready:
                order[root].append(expr)
            elif expr not in done:
                done.add(expr)
                parts = shown_operands(expr)
                uses.update(parts)
                stack.append((expr, True))
                stack.extend((part, False) for part in reversed(parts))
    return uses, order


def shown_operands(expr: Expr) -> tuple[Expr, ...]:
    """The operands as text shows them: without the conversions that reading the text makes anyway."""
    if expr.op in (Op.LOAD, Op.CAST) or not any(arg.op is Op.CAST for arg in expr.args):
        return expr.args
    bare = tuple(arg.args[0] if arg.op is Op.CAST else arg for arg in expr.args)
    kept = ((*bare[:i], expr.args[i], *bare[i + 1 :]) for i in range(len(bare)))
    return next((parts for parts in (bare, *kept) if _reads_as(expr, parts)), expr.args)


def _reads_as(expr: Expr, parts: tuple[Expr, ...]) -> bool:
    """Whether reading the operation on these operands gives back the node."""
    try:
        if expr.op is Op.NARROW:
            return narrow(parts[0], str(expr.value)) is expr
        return apply(READ_AS.get(expr.op, expr.op), *parts) is expr
    except LanguageError:
        return False


def _spell_constant(value: Value) -> tuple[str, Level]:
    if isinstance(value, bool):
        return str(value).lower(), Level.ATOM
    text = repr(value)
    return text, Level.UNARY if text.startswith("-") else Level.ATOM

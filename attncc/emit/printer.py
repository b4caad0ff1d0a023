"""Expressions as statements: each line stands in the outermost place that can hold it.

A `Place` is a position in a kernel (once per program, per query tile, per element, …) with the inputs that are known
there. `Printer.print` walks a chain of places from the outside in: a node goes to the first place that knows every
input on which it depends, a node that is used once is written inside its user, and a node that an earlier call has
printed in a visible place is used again by name. Any back end prints through its `Spelling`.

Where the spelling has operations in place, what depends on the score is written over the score tile as soon as nothing
else needs it; `uses` below counts who still does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from attncc.analysis.shape import depends
from attncc.emit.names import Namer, describe
from attncc.emit.spelling import LOOSEST, Form, Spelling
from attncc.errors import InternalError
from attncc.ir import SCORE, Expr, Op, Origin, Scalar, postorder
from attncc.ir.syntax import Level

MAX_WIDTH: Final = 84

_LEAVES: Final = (Op.CONST, Op.INPUT, Op.PARAM)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a kernel, with the inputs of expressions that are known there."""

    name: str
    axes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Line:
    """A statement, and where the user wrote what it computes."""

    text: str
    origin: str | None = None

    def __str__(self) -> str:
        return self.text if self.origin is None else f"{self.text}  # {self.origin}"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of an expression: how tightly it holds together, and whether it is a bare number."""

    text: str
    level: Level = Level.ATOM
    number: bool = False

    def at(self, least: Level) -> str:
        """The text where operands must hold at least so tightly."""
        return self.text if self.level >= least else f"({self.text})"


#: How a captured tensor is read: from its load and the texts of its indices.
Reader = Callable[[Expr, Sequence[Text]], str]


@dataclass
class Printer:
    """Prints expressions into places; `lines` are what each place holds so far.

    `leaves` are the texts of inputs and parameters by name; `used` collects those that were written. `demand` counts,
    for nodes over the score, the statements that will read them, over all calls of `print` to come; None keeps the
    printer from working in place. `tables` are the names of captured tensors, where they differ from the spec's.
    """

    spelling: Spelling
    namer: Namer
    leaves: Mapping[str, str]
    read: Reader
    origins: Mapping[Expr, Origin] = field(default_factory=dict)
    demand: Counter[Expr] | None = None
    tables: Mapping[str, str] = field(default_factory=dict)
    lines: dict[str, list[Line]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    bound: dict[tuple[str, Expr], Text] = field(default_factory=dict)

    def print(self, chain: Sequence[Place], *roots: Expr, named: Sequence[Expr] = ()) -> dict[Expr, Text]:
        """Print what the roots need along the chain; the result holds their texts. Those in `named` become names."""
        for place in chain:
            self.lines.setdefault(place.name, [])
        run = _Run(self, chain, (*roots, *named), named)
        for expr in postorder(*roots, *named):
            run.visit(expr)
        return {root: run.texts[root] for root in (*roots, *named)}

    def say(self, place: Place, text: str) -> None:
        """Add a line that no expression stands behind."""
        self.lines.setdefault(place.name, []).append(Line(text))

    def form(self, expr: Expr) -> Form:
        """The row of the spelling table for an operation; a back end that knows more of the operands may choose."""
        return self.spelling.form(expr.op, expr.args[-1].scalar)

    def origin(self, expr: Expr) -> str | None:
        """`file:line` of the user's text; no folder, so that the same input gives the same bytes everywhere."""
        origin = self.origins.get(expr)
        if origin is None or origin.span is None:
            return None
        name = origin.span.source.name.replace("\\", "/").rsplit("/", 1)[-1]
        return f"{name}:{origin.span.line}"

    def name(self, expr: Expr) -> str:
        """A free name: the user's, or a noun."""
        origin = self.origins.get(expr)
        noun = self.tables.get(str(expr.value)) if expr.op is Op.LOAD else None
        wanted = describe(expr, depends(expr), noun) if origin is None or origin.name is None else origin.name
        return self.namer.take(wanted)


def score_demand(*roots: Expr) -> Counter[Expr]:
    """How many nodes (or roots) read each node over the score."""
    demand: Counter[Expr] = Counter(root for root in roots if "score" in depends(root))
    for expr in postorder(*roots):
        demand.update({arg for arg in expr.args if "score" in depends(arg)})
    return demand


class _Run:
    """One call of `Printer.print`: where each node goes, and how often it is used there."""

    def __init__(self, printer: Printer, chain: Sequence[Place], roots: Sequence[Expr], named: Sequence[Expr]) -> None:
        self.printer = printer
        self.chain = chain
        self.texts: dict[Expr, Text] = {}
        self.users: Counter[Expr] = Counter([*roots, *named])
        self.hoisted: set[Expr] = set()
        for expr in postorder(*roots):
            self.users.update(expr.args)
            self.hoisted.update(arg for arg in expr.args if self.place(arg) is not self.place(expr))
        self.hoisted.update(root for root in roots if self.place(root) is not chain[-1])

    def place(self, expr: Expr) -> Place:
        """The outermost place of the chain that knows everything on which the expression depends."""
        for place in self.chain:
            if depends(expr) <= place.axes:
                return place
        raise InternalError(f"no place of the kernel knows {', '.join(sorted(depends(expr)))}")

    def visit(self, expr: Expr) -> None:
        """Write one node: inside its user, or as a statement of its own."""
        place = self.place(expr)
        known = self.printer.bound.get((place.name, expr))
        if known is not None:
            self.texts[expr] = known
            return
        text = self.write(expr)
        over_score = self.printer.demand is not None and "score" in depends(expr) and expr is not SCORE
        if over_score:
            text = self.write_over_score(expr, place, text)
        elif self.deserves_name(expr, text):
            text = self.bind(expr, place, text.text)
        self.texts[expr] = text

    def deserves_name(self, expr: Expr, text: Text) -> bool:
        """Whether a node becomes a statement: it is shared, hoisted, named by its author or too long to read."""
        if expr.op in _LEAVES or (expr.op is Op.LOAD and not expr.args and text.text.isidentifier()):
            return False
        origin = self.printer.origins.get(expr)
        named = origin is not None and origin.name is not None
        return self.users[expr] > 1 or expr in self.hoisted or named or len(text.text) > MAX_WIDTH

    def bind(self, expr: Expr, place: Place, text: str) -> Text:
        """Make the node a statement `name = text`."""
        name = self.printer.name(expr)
        self.printer.lines[place.name].append(Line(f"{name} = {text}", self.printer.origin(expr)))
        return self.remember(expr, place, Text(name))

    def remember(self, expr: Expr, place: Place, text: Text) -> Text:
        """Let later calls find the node under its name."""
        self.printer.bound[place.name, expr] = text
        return text

    def write(self, expr: Expr) -> Text:
        """The text of a node from those of its arguments."""
        args = [self.texts[arg] for arg in expr.args]
        match expr.op:
            case Op.CONST:
                return self.number(expr)
            case Op.INPUT | Op.PARAM:
                self.printer.used.add(self.printer.leaves[str(expr.value)])
                return Text(self.printer.leaves[str(expr.value)])
            case Op.LOAD:
                return Text(self.printer.read(expr, args))
            case _:
                form = self.form(expr)
                return Text(form.text.format(*self.operands(form, expr)), form.level)

    def number(self, expr: Expr) -> Text:
        """A constant; a negative one binds like a minus sign."""
        assert isinstance(expr.value, bool | int | float)
        text = self.printer.spelling.number(expr.value)
        return Text(text, Level.UNARY if text.startswith("-") else Level.ATOM, number=True)

    def form(self, expr: Expr) -> Form:
        """The row of the spelling table for a node."""
        match expr.op:
            case Op.CAST:
                return self.printer.spelling.casts[expr.args[0].scalar, expr.scalar]
            case Op.NARROW:
                return self.printer.spelling.narrow[str(expr.value)]
            case _:
                return self.printer.form(expr)

    def operands(self, form: Form, expr: Expr) -> list[str]:
        """The texts of the operands, with parentheses and as tensors where the form needs them."""
        args = [self.texts[arg] for arg in expr.args]
        lonely = form.tensors if all(args[i].number for i in form.tensors) else ()
        tensors = {*form.always, *lonely[:1]}
        texts = []
        for i, (arg, node) in enumerate(zip(args, expr.args, strict=True)):
            if arg.number and i in tensors:
                assert isinstance(node.value, bool | int | float)
                texts.append(self.printer.spelling.tensor(node.value))
            else:
                texts.append(arg.at(form.least(i)))
        return texts

    def write_over_score(self, expr: Expr, place: Place, text: Text) -> Text:
        """A statement over the score tile, in place where its first operand is needed no more."""
        demand = self.printer.demand
        assert demand is not None
        for arg in {*expr.args}:
            if "score" in depends(arg):
                demand[arg] -= 1
        owner = self.victim(expr)
        if owner is None:
            return self.bind(expr, place, text.text)
        form = self.printer.spelling.in_place[expr.op]
        others = [self.texts[arg].at(LOOSEST) for arg in expr.args if arg is not owner]
        line = form.text.format(self.texts[owner].text, *others)
        self.printer.lines[place.name].append(Line(line, self.printer.origin(expr)))
        return self.remember(expr, place, self.texts[owner])

    def victim(self, expr: Expr) -> Expr | None:
        """The operand over which the result may be written."""
        if expr.op not in self.printer.spelling.in_place or expr.scalar is not Scalar.FLOAT:
            return None
        candidates = expr.args if expr.op in (Op.ADD, Op.MUL) else expr.args[:1]
        demand = self.printer.demand or Counter()
        free = [a for a in candidates if "score" in depends(a) and a.scalar is Scalar.FLOAT and demand[a] == 0]
        return free[0] if free and len({*expr.args}) == len(expr.args) else None

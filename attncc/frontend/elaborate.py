"""From the syntax tree of a definition to its `AttentionSpec`: what each statement declares and binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lark import Token

from attncc.errors import InputError, LanguageError
from attncc.frontend.expressions import Typing, in_order
from attncc.frontend.names import POSITIONS, Helper, Meaning, Names, Node, Value, suggest
from attncc.frontend.operations import KINDS, a_kind, number
from attncc.ir import (
    ANY_DIM,
    INPUTS,
    NAMED_DIMS,
    SCORE,
    TRUE,
    AttentionSpec,
    Capture,
    Expr,
    Op,
    Parameter,
    Scalar,
    cast,
    const,
    param,
    postorder,
)
from attncc.ir.build import INT64_MAX
from attncc.ir.syntax import ARGUMENT_NAMES, RESERVED_NAMES, free_name

FLOATS: Final = ("float16", "float32", "float64", "bfloat16", "half", "double", "bf16", "fp16", "fp32", "tensor")
#: What the default of a parameter looks like, by its kind.
DEFAULTS: Final = {
    Scalar.INDEX: "a whole number, as in `256`; declare a `float` for fractions",
    Scalar.FLOAT: "a number, as in `2.5`",
    Scalar.BOOL: "`true` or `false`",
}
NOT_CONSTANT: Final = dict.fromkeys(INPUTS, ("is not known before a call", "the default of a parameter is a constant"))
Setting = bool | int | float


@dataclass(slots=True)
class Elaboration:
    """One definition on its way to a spec. `given` replaces defaults, `lost` are the names of mistaken statements."""

    typing: Typing
    given: Mapping[str, Setting]
    lost: set[str]
    names: Names = field(default_factory=Names)
    places: dict[str, Token] = field(default_factory=dict)
    captures: list[Capture] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    settable: list[str] = field(default_factory=list)
    mask: Value = TRUE

    def run(self, tree: Node) -> AttentionSpec:
        """The spec of a whole text; it means something only if there are no mistakes in `typing.errors`."""
        _, *helpers, variant = tree.children
        name, parameters, *statements = _children(variant)
        self.names.meanings |= dict.fromkeys(self.lost)
        self._define_helpers([_children(helper) for helper in helpers], _bound_by(statements, parameters))
        self.names = Names(
            {**self.names.meanings, "score": None if "score" in self.lost else SCORE}, self._later(statements)
        )
        for parameter in _children(parameters) if parameters is not None else ():
            self._declare_parameter(*_children(parameter))
        self._check_given(str(name))
        for statement in statements:
            if statement.data == "capture":
                self._declare_capture(*_children(statement))
            else:
                self._bind(*_children(statement))
        if not {"score", "mask"} & {*self.places, *self.lost}:
            message = f"`{name}` binds neither `mask` nor `score`"
            self.typing.errors.add(message, self.typing.span(name), "plain attention is `mask = true`")
        return self._spec(str(name))

    def _spec(self, name: str) -> AttentionSpec:
        score = self.names.meanings["score"]
        score, mask = score if isinstance(score, Expr) else SCORE, self.mask or TRUE
        kept = {expr: self.typing.origins[expr] for expr in postorder(score, mask) if expr in self.typing.origins}
        captures, parameters = tuple(self.captures), tuple(self.parameters)
        return AttentionSpec(name, score, mask, captures=captures, parameters=parameters, origins=kept)

    def _later(self, statements: list[Node]) -> dict[str, tuple[str, str]]:
        """What to say about a name that a statement below binds."""
        before = self.typing.source.first_line - 1
        tokens = [statement.children[0] for statement in statements]
        lines = {str(token): before + token.line for token in tokens if isinstance(token, Token) and token.line}
        return {name: ("is used before it is bound", f"it is bound in line {line}") for name, line in lines.items()}

    # Helpers

    def _define_helpers(self, helpers: list[list[Any]], of_variant: set[str]) -> None:
        hidden = ("is not seen inside a helper", "give the helper one more argument")
        below = ("is used before its definition", "a helper calls helpers above it; none can call itself in a circle")
        beyond = dict.fromkeys(of_variant, hidden) | {str(name): below for name, _, _ in helpers}
        for name, arguments, body in helpers:
            itself = ("calls itself", "a helper is put in place wherever it is called, so it cannot be recursive")
            self.names.beyond = {**beyond, str(name): itself}
            helper = Helper(str(name), self._arguments(arguments), body)
            helper = self.typing.define(helper, self.names)
            if self._is_free(name, "helper"):
                self.names.meanings[str(name)] = helper

    def _arguments(self, names: Node | None) -> tuple[str, ...]:
        arguments: list[str] = []
        for name in _children(names) if names is not None else ():
            if str(name) in arguments or str(name) in RESERVED_NAMES:
                means = "is an argument twice" if str(name) in arguments else "already has a meaning"
                self.typing.errors.add(f"`{name}` {means}", self.typing.span(name), "choose another name")
            arguments.append(str(name))
        return tuple(arguments)

    # Parameters

    def _declare_parameter(self, name: Token, kind: Token, default: Node) -> None:
        value = self.typing.evaluate(default, Names(_constants(), NOT_CONSTANT))
        scalar = self._kind(kind, "")
        if not self._is_free(name, "parameter"):
            return
        self.settable.append(str(name))
        self.names.meanings[str(name)] = None
        if scalar is None or value is None:
            return
        if scalar is Scalar.FLOAT and value.scalar is Scalar.INDEX:
            value = cast(value, Scalar.FLOAT)
        if value.scalar is not scalar:
            message = f"`{name}` is {_a(scalar)}, but its default is {a_kind(value)}"
            self.typing.errors.add(message, self.typing.span(default), DEFAULTS[scalar])
            return
        setting = value.value
        assert isinstance(setting, bool | int | float)
        if str(name) in self.given:
            setting = _fitted(str(name), scalar, self.given[str(name)])
        if scalar is Scalar.INDEX:
            self.parameters.append(Parameter(str(name), int(setting)))
        self.names.meanings[str(name)] = param(str(name)) if scalar is Scalar.INDEX else const(setting)

    def _check_given(self, variant: str) -> None:
        for name in self.given:
            if name not in self.settable and name not in self.lost:
                known = ", ".join(f"`{known}`" for known in self.settable)
                hint = suggest(name, self.settable) or (f"it has {known}" if known else "it has none")
                raise InputError(f"`{variant}` has no parameter `{name}`", hint=hint)

    # Captured tensors

    def _declare_capture(self, name: Token, kind: Token, dims: Node | None) -> None:
        scalar = self._kind(kind, ", which may be a tensor of any such dtype")
        sizes = [self._dim(dim.children[0]) for dim in _children(dims)] if dims is not None else []
        if not self._is_free(name, "captured tensor"):
            return
        whole = scalar is not None and None not in sizes
        self.names.meanings[str(name)] = None
        if whole and scalar is not None:
            capture = Capture(str(name), scalar, tuple(size for size in sizes if size is not None))
            self.captures.append(capture)
            self.names.meanings[str(name)] = capture

    def _kind(self, kind: Token, remark: str) -> Scalar | None:
        if str(kind) in KINDS:
            return KINDS[str(kind)]
        near = next((name for name in KINDS if str(kind).startswith((name, f"u{name}"))), None)
        near = "float" if str(kind) in FLOATS else near
        hint = f"write `{near}`{remark}" if near else "one of `int`, `float`, `bool`"
        self.typing.errors.add(f"`{kind}` is no kind of number", self.typing.span(kind), hint)
        return None

    def _dim(self, token: Token) -> str | int | None:
        text = str(token)
        if token.type == "INTEGER":
            try:
                size = number(text).value
            except LanguageError as error:
                self.typing.errors.add(error.message, self.typing.span(token), error.hint)
                return None
            assert isinstance(size, int)
            return size
        if text in (*NAMED_DIMS, ANY_DIM):
            return text
        hint = suggest(text, NAMED_DIMS) or "a size is a number, `batch`, `heads`, `q_len`, `kv_len`, or `_` for any"
        self.typing.errors.add(f"`{text}` is not a size", self.typing.span(token), hint)
        return None

    # Bindings

    def _bind(self, name: Token, expression: Node) -> None:
        value = self.typing.evaluate(expression, self.names)
        span = self.typing.span(expression)
        if name == "score":
            self.places.setdefault("score", name)
            self.names.meanings["score"] = self._score(value, expression)
        elif name == "mask":
            if self._is_unbound(name, "join the conditions with `and`"):
                self.mask = self._mask(value, expression)
                self.names.meanings["mask"] = self.mask
        elif self._is_free(name):
            self.names.meanings[str(name)] = value
            if value is not None and value.args:
                self.typing.keep(value, span, str(name))

    def _score(self, value: Value, expression: Node) -> Value:
        if value is None or value.scalar is not Scalar.BOOL:
            return value and cast(value, Scalar.FLOAT)
        hint = "conditions belong in `mask`, or in where(condition, score, -inf)"
        self.typing.errors.add("`score` must be a float, but this is a bool", self.typing.span(expression), hint)
        return None

    def _mask(self, value: Value, expression: Node) -> Value:
        if value is None:
            return None
        if value.scalar is not Scalar.BOOL:
            message = f"`mask` must be a bool, but this is {a_kind(value)}"
            hint = "compare it with something, as in `kv_idx < 10`"
            self.typing.errors.add(message, self.typing.span(expression), hint)
            return None
        if SCORE in postorder(value):
            hint = "a pair is also hidden where `score` is -inf: where(condition, score, -inf)"
            self.typing.errors.add("`mask` cannot depend on `score`", self.typing.span(_first_score(expression)), hint)
            return None
        return value

    def _is_free(self, name: Token, what: str = "value") -> bool:
        """Whether the name can be bound here; a mistake is reported otherwise, and its uses are not reported again."""
        text = str(name)
        problem = ""
        if text in RESERVED_NAMES:
            problem = f"`{text}` already has a meaning"
        elif text == ANY_DIM:
            problem = f"a {what} cannot be named `_`, which stands for any size"
        elif what in ("captured tensor", "parameter") and text in ARGUMENT_NAMES:
            problem = f"a {what} cannot be named `{text}`, which is an argument of every call"
        if problem:
            self.names.meanings.setdefault(text, None)
            self.typing.errors.add(problem, self.typing.span(name), f"choose another name, such as `{free_name(text)}`")
            return False
        return self._is_unbound(name, "only `score` can be bound again")

    def _is_unbound(self, name: Token, hint: str) -> bool:
        if str(name) not in self.places:
            self.places[str(name)] = name
            return True
        line = self.typing.span(self.places[str(name)]).line
        self.typing.errors.add(f"`{name}` is already bound in line {line}", self.typing.span(name), hint)
        return False


def _children(tree: Any) -> list[Any]:
    children: list[Any] = tree.children
    return children


def _bound_by(statements: list[Node], parameters: Node | None) -> set[str]:
    declared = [*statements, *(_children(parameters) if parameters is not None else ())]
    return {"score", "mask", *(str(node.children[0]) for node in declared)}


def _constants() -> dict[str, Meaning]:
    return {name: expr for name, expr in POSITIONS.items() if expr.op is Op.CONST}


def _first_score(expression: Node) -> Node:
    """Where an expression names `score`, or all of it if it does so by way of another name."""
    named = [node for node in in_order(expression) if node.data == "name" and node.children[0] == "score"]
    return named[-1] if named else expression


def _fitted(name: str, scalar: Scalar, value: Setting) -> Setting:
    """The value of a parameter that a caller gave. Raises InputError if it is of another kind."""
    kind = {Scalar.INDEX: int, Scalar.BOOL: bool, Scalar.FLOAT: float}[scalar]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and not -INT64_MAX - 1 <= value <= INT64_MAX):
        hint = "pass an int of 64 bits" if kind is int else f"pass {kind.__name__}(...)"
        raise InputError(f"the parameter `{name}` is {_a(scalar)}, not {value!r}", hint=hint)
    return value


def _a(scalar: Scalar) -> str:
    return f"an {scalar}" if scalar is Scalar.INDEX else f"a {scalar}"

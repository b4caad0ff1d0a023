"""What a well-formed expression and a well-formed spec are.

`LEGAL` says for each operation what kinds, how many operands and which value its nodes have; a node that breaks it was
made by attncc itself, so `check` calls it a bug. `verify` finds what a definition can get wrong and reports all of it
together, each mistake with its place where the spec knows one. Sizes and values are checked by calls.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from attncc.errors import InternalError, LanguageError, raise_collected
from attncc.ir.build import INT64_MAX, MAX_BITS, NARROW_DTYPES, OPS, SHIFTS, Rule
from attncc.ir.expr import INPUTS, SCORE, Expr, Op, Scalar, postorder
from attncc.ir.spec import ANY_DIM, NAMED_DIMS, AttentionSpec, Capture, Origin
from attncc.ir.syntax import is_free
from attncc.source import Span

MAX_DEPTH: Final = 5000
NUMBERS: Final = (Scalar.INDEX, Scalar.FLOAT)

Complaint = str | None


def _constant(expr: Expr) -> Complaint:
    kinds: dict[type, Scalar] = {bool: Scalar.BOOL, int: Scalar.INDEX, float: Scalar.FLOAT}
    if kinds.get(type(expr.value)) is not expr.scalar:
        return f"holds {expr.value!r}"
    if isinstance(expr.value, int) and not -INT64_MAX - 1 <= expr.value <= INT64_MAX:
        return "does not fit in 64 bits"
    return None


def _input(expr: Expr) -> Complaint:
    return None if INPUTS.get(str(expr.value)) is expr.scalar else f"is no input named {expr.value}"


def _param(expr: Expr) -> Complaint:
    return None if isinstance(expr.value, str) and expr.scalar is Scalar.INDEX else "is not an int with a name"


def _load(expr: Expr) -> Complaint:
    if not isinstance(expr.value, str):
        return "has no name"
    return None if all(arg.scalar is Scalar.INDEX for arg in expr.args) else "has an index that is not an int"


def _kinds(operands: Iterable[Scalar], result: Callable[[Expr], Scalar]) -> Callable[[Expr], Complaint]:
    """Operands of one kind among `operands`, and the kind of the result."""
    allowed = tuple(operands)

    def check_kinds(expr: Expr) -> Complaint:
        if len({arg.scalar for arg in expr.args}) > 1 or expr.args[0].scalar not in allowed:
            return f"has operands {', '.join(str(arg.scalar) for arg in expr.args)}"
        return None if expr.scalar is result(expr) else f"is {expr.scalar}"

    return check_kinds


def _same(expr: Expr) -> Scalar:
    return expr.args[0].scalar


def _always(scalar: Scalar) -> Callable[[Expr], Scalar]:
    return lambda _: scalar


def _bits(expr: Expr) -> Complaint:
    if expr.op in SHIFTS and not _is_constant_within(expr.args[1], MAX_BITS):
        return "shifts by something other than a constant from 0 to 63"
    return _kinds((Scalar.INDEX,), _same)(expr)


def _power(expr: Expr) -> Complaint:
    if expr.scalar is Scalar.INDEX and not _is_constant_within(expr.args[1], MAX_BITS):
        return "raises an int to something other than a constant from 0 to 63"
    return _kinds(NUMBERS, _same)(expr)


def _is_constant_within(expr: Expr, most: int) -> bool:
    return expr.op is Op.CONST and isinstance(expr.value, int) and 0 <= expr.value <= most


def _where(expr: Expr) -> Complaint:
    if expr.args[0].scalar is not Scalar.BOOL:
        return f"has the condition {expr.args[0].scalar}"
    same = expr.args[1].scalar is expr.args[2].scalar is expr.scalar
    return None if same else "has branches of different kinds"


def _cast(expr: Expr) -> Complaint:
    # Index or Float to Bool is `!= 0`, and a cast to the kind at hand is no node at all.
    fits = expr.scalar in NUMBERS and expr.args[0].scalar is not expr.scalar
    return None if fits else f"turns {expr.args[0].scalar} into {expr.scalar}"


def _narrow(expr: Expr) -> Complaint:
    if expr.value not in NARROW_DTYPES:
        return f"rounds to {expr.value}"
    return _kinds((Scalar.FLOAT,), _same)(expr)


_OF_RULE: Final[Mapping[Rule, Callable[[Expr], Complaint]]] = {
    Rule.NUMBER: _kinds(NUMBERS, _same),
    Rule.FLOAT: _kinds((Scalar.FLOAT,), _same),
    Rule.ROUNDING: _kinds((Scalar.FLOAT,), _same),
    Rule.POWER: _power,
    Rule.BITS: _bits,
    Rule.ORDER: _kinds(NUMBERS, _always(Scalar.BOOL)),
    Rule.EQUALITY: _kinds(Scalar, _always(Scalar.BOOL)),
    Rule.LOGIC: _kinds((Scalar.BOOL,), _same),
    Rule.WHERE: _where,
}
_OF_OP: Final[Mapping[Op, Callable[[Expr], Complaint]]] = {
    Op.CONST: _constant,
    Op.INPUT: _input,
    Op.PARAM: _param,
    Op.LOAD: _load,
    Op.CAST: _cast,
    Op.NARROW: _narrow,
}
#: For each operation, what is wrong with a node that has the right number of operands; None if it is well formed.
LEGAL: Final[Mapping[Op, Callable[[Expr], Complaint]]] = {op: _OF_OP.get(op) or _OF_RULE[OPS[op].rule] for op in OPS}
_WITH_VALUE: Final = (Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD, Op.NARROW)


def check(root: Expr) -> None:
    """Raises InternalError for the first node below the root that is not well formed."""
    for expr in postorder(root):
        complaint = _complaint(expr)
        if complaint is not None:
            raise InternalError(f"a malformed expression: `{expr.op.value}` {complaint}: {expr!r}")


def _complaint(expr: Expr) -> Complaint:
    arity = OPS[expr.op].arity
    if arity is not None and arity != len(expr.args):
        return f"has {len(expr.args)} operands, not {arity}"
    if expr.op not in _WITH_VALUE and expr.value is not None:
        return f"carries {expr.value!r}"
    return LEGAL[expr.op](expr)


def verify(spec: AttentionSpec) -> None:
    """Raises the mistakes of a definition, all together; InternalError for an expression that no user can make."""
    too_deep = list(_find_depth(spec))
    if too_deep:  # what follows would only add noise
        raise_collected(too_deep)
    check(spec.score)
    check(spec.mask)
    mistakes = [*_find_declarations(spec), *_find_kinds(spec), *_find_score_in_mask(spec), *_find_names(spec)]
    raise_collected(sorted(mistakes, key=lambda e: e.span.start if e.span else 0))


def _find_depth(spec: AttentionSpec) -> Iterator[LanguageError]:
    for what, root in (("score", spec.score), ("mask", spec.mask)):
        depth: dict[Expr, int] = {}
        for expr in postorder(root):
            depth[expr] = 1 + max((depth[arg] for arg in expr.args), default=0)
        if depth[root] > MAX_DEPTH:
            first = next(expr for expr in depth if depth[expr] > MAX_DEPTH)
            message = f"`{what}` is {depth[root]} operations deep, and {MAX_DEPTH} is the most"
            yield LanguageError(message, _span(spec, first) or _span(spec, root), "store what repeats in a tensor")


def _find_kinds(spec: AttentionSpec) -> Iterator[LanguageError]:
    score, mask = spec.score, spec.mask
    if score.scalar is not Scalar.FLOAT:
        hint = "conditions belong in `mask`, or in where(condition, score, -inf)"
        message = f"`score` must be a float, but this is {_a(score.scalar)}"
        yield LanguageError(message, _span(spec, score), hint if score.scalar is Scalar.BOOL else None)
    if mask.scalar is not Scalar.BOOL:
        hint = "compare it with something, as in `kv_idx < 10`"
        yield LanguageError(f"`mask` must be a bool, but this is {_a(mask.scalar)}", _span(spec, mask), hint)


def _find_score_in_mask(spec: AttentionSpec) -> Iterator[LanguageError]:
    order = postorder(spec.mask)
    if SCORE not in order:
        return
    # The input itself may have been written in many places; who uses it in the mask is the place to show.
    users = [expr for expr in order if SCORE in expr.args]
    place = next((found for expr in users if (found := _span(spec, expr))), _span(spec, spec.mask))
    hint = "a pair is also hidden where `score` is -inf: where(condition, score, -inf)"
    yield LanguageError("`mask` cannot depend on `score`", place, hint)


def _find_declarations(spec: AttentionSpec) -> Iterator[LanguageError]:
    seen: set[str] = set()
    declared = [(capture.name, "captured tensor") for capture in spec.captures]
    for name, what in (*declared, *((parameter.name, "parameter") for parameter in spec.parameters)):
        if name in seen:
            yield LanguageError(f"`{name}` is declared twice", hint="remove or rename one")
        elif not is_free(name):
            yield LanguageError(f"a {what} cannot be named `{name}`", hint="choose another name")
        seen.add(name)
    for capture in spec.captures:
        for dim in capture.dims:
            if not (_is_size(dim) if isinstance(dim, int) else dim in (*NAMED_DIMS, ANY_DIM)):
                known = ", ".join(f"`{name}`" for name in (*NAMED_DIMS, ANY_DIM))
                yield LanguageError(f"`{capture.name}` has the dimension `{dim}`", hint=f"a size, or one of {known}")
    for parameter in spec.parameters:
        if not _is_size(abs(parameter.value)):
            message = f"the parameter `{parameter.name}` is {parameter.value!r}, not an int of 64 bits"
            yield LanguageError(message, hint="choose one from -2**63 to 2**63 - 1")


def _is_size(value: int) -> bool:
    return not isinstance(value, bool) and 0 <= value <= INT64_MAX


def _find_names(spec: AttentionSpec) -> Iterator[LanguageError]:
    captures = {capture.name: capture for capture in spec.captures}
    parameters = {parameter.name for parameter in spec.parameters}
    for expr in postorder(spec.score, spec.mask):
        name = str(expr.value)
        if expr.op is Op.PARAM and name not in parameters:
            yield LanguageError(f"unknown parameter `{name}`", _span(spec, expr), _suggest(name, parameters))
        elif expr.op is Op.LOAD and name not in captures:
            yield LanguageError(f"unknown captured tensor `{name}`", _span(spec, expr), _suggest(name, captures))
        elif expr.op is Op.LOAD:
            yield from _find_load(spec, expr, captures[name])


def _find_load(spec: AttentionSpec, expr: Expr, capture: Capture) -> Iterator[LanguageError]:
    if capture.rank != len(expr.args):
        given = _count(len(expr.args), "index", "indices")
        held = _count(capture.rank, "dimension", "dimensions")
        example = f"{capture.name}[{', '.join('ijklmnop'[: capture.rank])}]" if capture.rank else capture.name
        message = f"`{capture.name}` has {held}, but is read with {given}"
        yield LanguageError(message, _span(spec, expr), f"write `{example}`")
    if capture.scalar is not expr.scalar:
        message = f"`{capture.name}` holds {capture.scalar}s, but is read as {_a(expr.scalar)}"
        yield LanguageError(message, _span(spec, expr), f"read it as {_a(capture.scalar)}, and convert")


def _span(spec: AttentionSpec, expr: Expr) -> Span | None:
    return spec.origins.get(expr, Origin()).span


def _suggest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean `{nearest[0]}`?" if nearest else "declare it in the spec"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _a(scalar: Scalar) -> str:
    return f"an {scalar}" if scalar is Scalar.INDEX else f"a {scalar}"

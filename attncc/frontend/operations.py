"""What the operators, functions and numbers of `.attn` mean as operations, and which operands they refuse.

Each function takes the values of its operands and their places; a value of None was reported already and gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from math import isinf
from typing import Final, TypeGuard

from attncc.errors import LanguageError
from attncc.frontend.names import Value, example
from attncc.frontend.wording import shorten
from attncc.ir import Capture, Expr, Op, Scalar, apply, cast, conjunction, const, functions, load, narrow
from attncc.ir.build import INT64_MAX
from attncc.ir.syntax import FUNCTIONS, OPERATORS
from attncc.ir.text import describe_capture
from attncc.source import Span

KINDS: Final = {"int": Scalar.INDEX, "float": Scalar.FLOAT, "bool": Scalar.BOOL}
EXPANSIONS: Final[dict[str, Callable[..., Expr]]] = {
    "clamp": functions.clamp,
    "relu": functions.relu,
    "silu": functions.silu,
    "gelu": functions.gelu,
    "softplus": functions.softplus,
}
COMPARED: Final = {OPERATORS[op].symbol: op for op in (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE)}
#: `& | ^ ~` are logic on bools and work bit by bit on ints.
LOGIC: Final = {
    "bit_and": (Op.AND, "&"),
    "bit_or": (Op.OR, "|"),
    "bit_xor": (Op.XOR, "^"),
    "invert": (Op.NOT, "~"),
}
IN_BITS: Final = {"and": "&", "or": "|", "not": "~"}
ARGUMENTS: Final = {"where": ("condition", "a", "b"), "clamp": ("x", "low", "high")}
MAX_DIGITS: Final = 400


def number(text: str) -> Expr:
    """The constant that a literal means; its sign, if any, belongs to it."""
    digits = text.replace("_", "").lower()
    hexadecimal, binary = "0x" in digits, "0b" in digits
    if not hexadecimal and any(sign in digits for sign in ".e"):
        value = float(digits)
        if isinf(value):
            raise LanguageError(f"{shorten(text)} is too large for a float", hint="infinity is `inf`")
        return const(value)
    base = 16 if hexadecimal else 2 if binary else 10
    whole = int(digits, base) if len(digits) < MAX_DIGITS else INT64_MAX * 2  # Python refuses to read long ints
    if not -INT64_MAX - 1 <= whole <= INT64_MAX:
        raise LanguageError(f"{shorten(text)} does not fit in 64 bits", hint="a float can be that large, as in `1e20`")
    return const(whole)


def operate(name: str, operands: Sequence[Value], spans: Sequence[Span]) -> Value:
    """An operator, by its name in the grammar."""
    if name in IN_BITS:
        _need_bools(name, operands, spans)
    if name in LOGIC:
        _refuse_floats(LOGIC[name][1], operands, spans)
    if not _are_known(operands):
        return None
    op, symbol = LOGIC.get(name) or (Op(name), OPERATORS[Op(name)].symbol)
    return _apply(op, symbol, *operands)


def compare(symbols: Sequence[str], operands: Sequence[Value]) -> Value:
    """`a < b <= c`: every neighbour compared, and all of it together."""
    if not _are_known(operands):
        return None
    pairs = zip(symbols, pairwise(operands), strict=True)
    return conjunction(*(_apply(COMPARED[symbol], symbol, a, b) for symbol, (a, b) in pairs))


def element(capture: Capture | None, index: Sequence[Value], spans: Sequence[Span]) -> Value:
    """One element of a captured tensor."""
    if capture is None:
        return None
    if len(index) != capture.rank:
        given = f"{len(index)} {'index' if len(index) == 1 else 'indices'}"
        hint = f"write `{example(capture)}`"
        raise LanguageError(f"`{capture.name}` is {describe_capture(capture)}, but is read with {given}", hint=hint)
    for value, span in zip(index, spans, strict=True):
        if value is not None and value.scalar is not Scalar.INDEX:
            hint = (
                "`int(x)` truncates, `int(floor(x))` rounds down" if value.scalar is Scalar.FLOAT else "write `int(x)`"
            )
            raise LanguageError(f"an index must be an int, but this is a {value.scalar}", span, hint)
    return load(capture.name, capture.scalar, *index) if _are_known(index) else None


def call_builtin(name: str, operands: Sequence[Value], spans: Sequence[Span]) -> Value:
    """A function that is built in."""
    _need_arguments(name, len(operands))
    if name == "where" and operands[0] is not None and operands[0].scalar is not Scalar.BOOL:
        message = f"the condition of `where` must be a bool, but this is {a_kind(operands[0])}"
        raise LanguageError(message, spans[0], "compare it with something, as in `x > 0`")
    if not _are_known(operands):
        return None
    if name in KINDS:
        return cast(operands[0], KINDS[name])
    if name in EXPANSIONS:
        return EXPANSIONS[name](*operands)
    if name in FUNCTIONS:
        op = FUNCTIONS[name]
        return reduce(lambda a, b: _apply(op, name, a, b), operands) if name in ("min", "max") else apply(op, *operands)
    return narrow(operands[0], name)


def _need_arguments(name: str, given: int) -> None:
    if name in ("min", "max"):
        if given < 2:
            raise LanguageError(f"`{name}` takes two arguments or more, not {given}", hint=f"write `{name}(a, b)`")
        return
    arguments = ARGUMENTS.get(name, ("x",))
    if given != len(arguments):
        wanted = f"{len(arguments)} argument{'s' if len(arguments) > 1 else ''}"
        hint = f"write `{name}({', '.join(arguments)})`"
        raise LanguageError(f"`{name}` takes {wanted}, not {given}", hint=hint)


def _need_bools(name: str, operands: Sequence[Value], spans: Sequence[Span]) -> None:
    for value, span in zip(operands, spans, strict=True):
        if value is not None and value.scalar is not Scalar.BOOL:
            hint = "compare it with something, as in `x > 0`"
            if value.scalar is Scalar.INDEX:
                hint += f"; the bits of ints are combined by `{IN_BITS[name]}`"
            raise LanguageError(f"`{name}` needs bools, but this is {a_kind(value)}", span, hint)


def _refuse_floats(symbol: str, operands: Sequence[Value], spans: Sequence[Span]) -> None:
    for value, span in zip(operands, spans, strict=True):
        if value is not None and value.scalar is Scalar.FLOAT:
            hint = "compare it with something, as in `x > 0`"
            raise LanguageError(f"`{symbol}` needs bools or ints, but this is a float", span, hint)


def _apply(op: Op, symbol: str, *operands: Expr) -> Expr:
    """`apply`, whose messages name an operation as the user wrote it."""
    try:
        return apply(op, *operands)
    except LanguageError as error:
        hint = "convert the base: `float(x) ** y`" if op is Op.POW else error.hint
        raise LanguageError(error.message.replace(f"`{op.value}`", f"`{symbol}`"), error.span, hint) from None


def _are_known(operands: Sequence[Value]) -> TypeGuard[Sequence[Expr]]:
    return None not in operands


def a_kind(expr: Expr) -> str:
    """The kind of number that an expression holds, with its article."""
    return f"an {expr.scalar}" if expr.scalar is Scalar.INDEX else f"a {expr.scalar}"

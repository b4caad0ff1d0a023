"""How operations are spelled in `.attn` text, and which names are taken.

The printer reads these tables from the left, the parser from the right; `grammar/attn.lark` holds the same precedence
as rules, and a test compares the two.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Container
from typing import Final, NamedTuple

from attncc.ir.expr import INPUTS, Op

#: The version of the language that this attncc reads and prints, as in the header `attn 1`.
VERSION: Final = 1


class Level(enum.IntEnum):
    """How tightly a piece of text holds together, loosest first; the order is Python's."""

    OR = 1
    AND = 2
    NOT = 3
    COMPARISON = 4
    BIT_OR = 5
    BIT_XOR = 6
    BIT_AND = 7
    SHIFT = 8
    SUM = 9
    PRODUCT = 10
    UNARY = 11
    POWER = 12
    ATOM = 13


class Operator(NamedTuple):
    """A symbol, its level, and the least levels that its operands need to stand without parentheses."""

    symbol: str
    level: Level
    operands: tuple[Level, ...]


def _left(symbol: str, level: Level) -> Operator:
    return Operator(symbol, level, (level, Level(level + 1)))


def _compare(symbol: str) -> Operator:
    # Not (level, …): `a < b < c` is a chain.
    return Operator(symbol, Level.COMPARISON, (Level.BIT_OR, Level.BIT_OR))


OPERATORS: Final[dict[Op, Operator]] = {
    Op.OR: _left("or", Level.OR),
    Op.AND: _left("and", Level.AND),
    Op.NOT: Operator("not", Level.NOT, (Level.NOT,)),
    Op.LT: _compare("<"),
    Op.LE: _compare("<="),
    Op.GT: _compare(">"),
    Op.GE: _compare(">="),
    Op.EQ: _compare("=="),
    Op.NE: _compare("!="),
    Op.BIT_OR: _left("|", Level.BIT_OR),
    Op.XOR: _left("^", Level.BIT_XOR),
    Op.BIT_XOR: _left("^", Level.BIT_XOR),
    Op.BIT_AND: _left("&", Level.BIT_AND),
    Op.SHIFT_LEFT: _left("<<", Level.SHIFT),
    Op.SHIFT_RIGHT: _left(">>", Level.SHIFT),
    Op.ADD: _left("+", Level.SUM),
    Op.SUB: _left("-", Level.SUM),
    Op.MUL: _left("*", Level.PRODUCT),
    Op.DIV: _left("/", Level.PRODUCT),
    Op.FLOORDIV: _left("//", Level.PRODUCT),
    Op.MOD: _left("%", Level.PRODUCT),
    Op.NEG: Operator("-", Level.UNARY, (Level.UNARY,)),
    Op.POW: Operator("**", Level.POWER, (Level.ATOM, Level.UNARY)),
}

#: Operations that are written as calls of a function.
FUNCTIONS: Final[dict[str, Op]] = {
    op.value: op
    for op in (
        *(Op.WHERE, Op.MIN, Op.MAX, Op.ABS),
        *(Op.EXP, Op.EXP2, Op.EXPM1, Op.LOG, Op.LOG2, Op.LOG1P, Op.SQRT, Op.RSQRT),
        *(Op.TANH, Op.SIGMOID, Op.SIN, Op.COS, Op.ATAN, Op.ERF),
        *(Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC),
    )
}
#: Functions of `attncc.ir.functions`: short for several operations.
SHORTHANDS: Final = ("clamp", "relu", "silu", "gelu", "softplus")
CONVERSIONS: Final = ("int", "float", "bool", "bfloat16", "float16")
CONSTANTS: Final[dict[str, bool | float]] = {
    "true": True,
    "false": False,
    "inf": float("inf"),
    "nan": float("nan"),
    "pi": 3.141592653589793,
}
KEYWORDS: Final = ("attn", "attention", "capture", "def", "and", "or", "not")

#: Names that mean something everywhere and cannot be bound. `score` can be bound again, `mask` once.
RESERVED_NAMES: Final = frozenset(
    (*KEYWORDS, "mask", *INPUTS, *CONSTANTS, *FUNCTIONS, *SHORTHANDS, *CONVERSIONS),
)
#: Arguments of a call of a variant, which captured tensors and parameters cannot be named like.
ARGUMENT_NAMES: Final = frozenset(
    (
        *("q", "k", "v", "scale", "return_lse", "backend", "q_len", "kv_len"),
        *("block_m", "block_n", "deterministic", "check_bounds", "refine", "score_mod", "mask_mod", "self"),
    )
)
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_free(name: str) -> bool:
    """Whether a captured tensor or a parameter may have this name."""
    return (
        NAME.fullmatch(name) is not None and name not in RESERVED_NAMES and name not in ARGUMENT_NAMES and name != "_"
    )


def free_name(wanted: str, taken: Container[str] = ()) -> str:
    """The wanted name where a captured tensor or parameter may have it and it is not taken, or one close to it."""
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", wanted).strip("_") or "value"
    stem = f"_{stem}" if stem[0].isdigit() else stem
    name, count = stem if is_free(stem) else f"{stem}_", 1
    while name in taken or not is_free(name):
        count += 1
        name = f"{stem}_{count}"
    return name

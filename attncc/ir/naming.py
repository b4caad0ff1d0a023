"""Names for the expressions that the printer binds: by what they hold, the same for the same spec."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from attncc.ir.expr import KV_IDX, Q_IDX, Expr, Op, Scalar
from attncc.ir.spec import Origin
from attncc.ir.syntax import NAME, RESERVED_NAMES

#: What the result of an operation is called.
NOUNS: Final[Mapping[Op, str]] = {
    Op.CONST: "constant",
    Op.INPUT: "input",
    Op.PARAM: "parameter",
    Op.LOAD: "element",
    Op.ADD: "sum",
    Op.SUB: "difference",
    Op.MUL: "product",
    Op.DIV: "ratio",
    Op.FLOORDIV: "quotient",
    Op.MOD: "remainder",
    Op.POW: "power",
    Op.NEG: "negative",
    Op.ABS: "magnitude",
    Op.MIN: "least",
    Op.MAX: "greatest",
    Op.BIT_AND: "common_bits",
    Op.BIT_OR: "joined_bits",
    Op.BIT_XOR: "differing_bits",
    Op.SHIFT_LEFT: "shifted_left",
    Op.SHIFT_RIGHT: "shifted_right",
    Op.EXP: "exponential",
    Op.EXP2: "power_of_two",
    Op.EXPM1: "growth",
    Op.LOG: "logarithm",
    Op.LOG2: "binary_logarithm",
    Op.LOG1P: "log_growth",
    Op.SQRT: "root",
    Op.RSQRT: "inverse_root",
    Op.TANH: "saturated",
    Op.SIGMOID: "gate",
    Op.SIN: "sine",
    Op.COS: "cosine",
    Op.ATAN: "angle",
    Op.ERF: "error_function",
    Op.FLOOR: "rounded_down",
    Op.CEIL: "rounded_up",
    Op.ROUND: "rounded",
    Op.TRUNC: "truncated",
    Op.LT: "below",
    Op.LE: "at_most",
    Op.GT: "above",
    Op.GE: "at_least",
    Op.EQ: "equal",
    Op.NE: "different",
    Op.AND: "both",
    Op.OR: "either",
    Op.XOR: "one_of_two",
    Op.NOT: "opposite",
    Op.WHERE: "choice",
    Op.CAST: "converted",
    Op.NARROW: "narrowed",
}
POSITIONS: Final = {Q_IDX: "q", KV_IDX: "kv"}


def describe(expr: Expr) -> str:
    """A name for what an expression holds, without regard to whether it is taken."""
    first = POSITIONS.get(expr.args[0]) if expr.args else None
    match expr.op:
        case Op.SUB if expr.args == (Q_IDX, KV_IDX):
            return "distance"
        case Op.SUB if expr.args == (KV_IDX, Q_IDX):
            return "offset"
        case Op.FLOORDIV if first:
            return f"{first}_block"
        case Op.MOD if first:
            return f"{first}_in_block"
        case Op.LOAD:
            inputs = [POSITIONS.get(arg, str(arg.value)) for arg in expr.args if arg.op is Op.INPUT]
            # b says little where another index says more
            inputs = [name for name in inputs if name != "b"] or inputs
            return "_".join([str(expr.value), *inputs, *([] if inputs else ["element"])])
        case Op.CAST:
            return "as_int" if expr.scalar is Scalar.INDEX else "as_float"
        case _:
            return NOUNS[expr.op]


class Naming:
    """Gives each bound expression a name of its own; with `origins`, its author's where that fits."""

    def __init__(self, taken: Collection[str], origins: Mapping[Expr, Origin] | None = None) -> None:
        self.taken = {*taken, *RESERVED_NAMES}
        self.origins = origins or {}

    def author_name(self, expr: Expr) -> str | None:
        """The name that the author gave to an expression, if it can be used here."""
        name = self.origins.get(expr, Origin()).name
        return name if name and NAME.fullmatch(name) and name not in self.taken else None

    def name(self, expr: Expr) -> str:
        """A name that nothing else has."""
        stem = self.author_name(expr) or describe(expr)
        name, count = stem, 1
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

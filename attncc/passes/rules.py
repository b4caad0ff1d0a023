"""What a rule of simplification is, and the few words in which the rules are written.

A rule states its mathematics as a text, the operation that it looks at and the kind of the operands, and gives the new
expression or None. i, j stand for ints, x, y for floats, p, r for bools, c, d for constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from attncc.errors import LanguageError
from attncc.ir import Expr, Op, Scalar, apply, const
from attncc.ir.build import INT64_MAX

INDEX, FLOAT, BOOL = Scalar.INDEX, Scalar.FLOAT, Scalar.BOOL
ZERO, ONE = const(0), const(1)
CONVERSIONS: Final = (Op.CAST, Op.NARROW)

Replace = Callable[..., Expr | None]
#: A text, the operations it is about, and the replacement.
Row = tuple[str, Op | Sequence[Op], Replace]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of algebra: for `op` on operands of `kind` (None: any), what its operands can be replaced with.

    `replace` takes the operands; for a conversion, which they do not tell apart, the expression itself.
    """

    text: str
    op: Op
    kind: Scalar | None
    replace: Replace

    def __call__(self, expr: Expr) -> Expr | None:
        """The simpler expression, or None where the rule does not apply."""
        if self.kind is not None and expr.args[-1].scalar is not self.kind:
            return None
        try:
            return self.replace(expr) if self.op in CONVERSIONS else self.replace(*expr.args)
        except LanguageError:  # a constant beyond 64 bits, or a division by 0: left for run time
            return None


def rules_of(kind: Scalar | None, *rows: Row) -> tuple[Rule, ...]:
    """Rules for operands of one kind, from rows of text, operations and replacement."""
    made = []
    for text, ops, replace in rows:
        made += [Rule(text, op, kind, replace) for op in ([ops] if isinstance(ops, Op) else ops)]
    return tuple(made)


add, sub, mul, neg = (partial(apply, op) for op in (Op.ADD, Op.SUB, Op.MUL, Op.NEG))
floordiv, mod = partial(apply, Op.FLOORDIV), partial(apply, Op.MOD)
minimum, maximum, absolute = partial(apply, Op.MIN), partial(apply, Op.MAX), partial(apply, Op.ABS)
both, either, invert, where = (partial(apply, op) for op in (Op.AND, Op.OR, Op.NOT, Op.WHERE))

#: Comparisons by the order of their operands that they allow.
FLIPPED: Final = {Op.LT: Op.GT, Op.GT: Op.LT, Op.LE: Op.GE, Op.GE: Op.LE, Op.EQ: Op.EQ, Op.NE: Op.NE}
NEGATED: Final = {Op.LT: Op.GE, Op.GE: Op.LT, Op.GT: Op.LE, Op.LE: Op.GT, Op.EQ: Op.NE, Op.NE: Op.EQ}
COMPARISONS: Final = tuple(FLIPPED)
ORDERS: Final = (Op.LT, Op.LE, Op.GT, Op.GE)


def whole(value: int) -> Expr:
    """An Index constant. Raises LanguageError where it does not fit in 64 bits."""
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise LanguageError(f"the constant {value} does not fit in 64 bits")
    return const(value)


def is_const(expr: Expr) -> bool:
    """Whether the expression is a constant."""
    return expr.op is Op.CONST


def integer(expr: Expr) -> int | None:
    """The value of an Index constant, None for anything else."""
    return expr.value if isinstance(expr.value, int) and expr.op is Op.CONST else None


def number(expr: Expr) -> float | None:
    """The value of a Float constant, None for anything else."""
    return expr.value if isinstance(expr.value, float) and expr.op is Op.CONST else None


def split(expr: Expr, op: Op) -> tuple[Expr, int] | None:
    """The operand and the constant of `operand op constant`."""
    if expr.op is op and isinstance(expr.args[1].value, int) and expr.args[1].op is Op.CONST:
        return expr.args[0], expr.args[1].value
    return None

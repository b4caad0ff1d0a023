"""A small algebra for writing what torch's functions mean: a registry, and short names for operations.

A definition under `means(name, …)` has torch's parameters, by name and position. Those annotated `Expr` or `Number`
take a number or a tensor, element by element; the others take plain Python values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Final

from attncc.ir import Expr, Op, Scalar, apply, cast, const

Number = Expr | int | float | bool


@dataclass(frozen=True, slots=True)
class Pointwise:
    """One torch function: how its call is read, which of its parameters are operands, and what it computes."""

    signature: Signature
    operands: frozenset[str]
    compute: Callable[..., Expr]


#: By torch's names: of functions, of methods, and of operators as torch dispatches them.
POINTWISE: Final[dict[str, Pointwise]] = {}


def means(*names: str) -> Callable[[Callable[..., Expr]], Callable[..., Expr]]:
    """Enter a definition under names of torch."""

    def enter(compute: Callable[..., Expr]) -> Callable[..., Expr]:
        found = signature(compute, eval_str=True)
        operands = frozenset(name for name, each in found.parameters.items() if _is_operand(each))
        POINTWISE.update(dict.fromkeys(names, Pointwise(found, operands, compute)))
        return compute

    return enter


def _is_operand(parameter: Parameter) -> bool:
    return parameter.annotation in (Expr, Expr | None, Number)


def e(value: Number) -> Expr:
    """A number as an expression."""
    return value if isinstance(value, Expr) else const(value)


def do(op: Op) -> Callable[..., Expr]:
    """An operation as a function of expressions and numbers."""
    return lambda *operands: apply(op, *map(e, operands))


add, sub, mul, div = do(Op.ADD), do(Op.SUB), do(Op.MUL), do(Op.DIV)
neg, abs_, min_, max_ = do(Op.NEG), do(Op.ABS), do(Op.MIN), do(Op.MAX)
floordiv, mod, pow_ = do(Op.FLOORDIV), do(Op.MOD), do(Op.POW)
exp, log, log1p, sqrt, atan = do(Op.EXP), do(Op.LOG), do(Op.LOG1P), do(Op.SQRT), do(Op.ATAN)
lt, le, gt, ge, eq, ne = (do(op) for op in (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE))
and_, or_, not_, where = do(Op.AND), do(Op.OR), do(Op.NOT), do(Op.WHERE)


def float_(x: Number) -> Expr:
    """An operand as a Float."""
    return cast(e(x), Scalar.FLOAT)


def means_unary(op: Op, *names: str) -> None:
    """Enter an operation of one operand."""

    @means(*names)
    def compute(input: Expr) -> Expr:
        return apply(op, input)


def means_binary(op: Op, *names: str) -> None:
    """Enter an operation of two operands."""

    @means(*names)
    def compute(input: Expr, other: Expr) -> Expr:
        return apply(op, input, other)


def means_reflected(op: Op, *names: str) -> None:
    """Enter an operation whose operands torch swaps, as in `2 ** x`."""

    @means(*names)
    def compute(input: Expr, other: Expr) -> Expr:
        return apply(op, other, input)

"""Simplification: the same value and the same derivatives, by fewer operations, in a form in which alike looks alike.

A list of rules, each a line of algebra that holds for every value (see `integers`, `floats`, `comparisons`, `logic`);
they are applied bottom-up until none does. What a definition means, and where it can fail, is never widened: a read
beyond its tensor may disappear, none appears.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attncc.ir import OPS, Expr, Op, apply, cast, narrow, rewrite
from attncc.passes.comparisons import COMPARISON_RULES
from attncc.passes.floats import FLOAT_RULES
from attncc.passes.integers import INTEGER_RULES
from attncc.passes.logic import LOGIC_RULES
from attncc.passes.rules import CONVERSIONS, Rule, is_const

LEAVES: Final = (Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD)


def _fold(op: Op) -> Callable[..., Expr | None]:
    def fold(*operands: Expr) -> Expr | None:
        return apply(op, *operands) if all(map(is_const, operands)) else None

    return fold


def _fold_conversion(expr: Expr) -> Expr | None:
    (operand,) = expr.args
    if not is_const(operand):
        return None
    return narrow(operand, str(expr.value)) if expr.op is Op.NARROW else cast(operand, expr.scalar)


FOLDING: Final = tuple(
    Rule("of constants -> its value", op, None, _fold_conversion if op in CONVERSIONS else _fold(op))
    for op in OPS
    if op not in LEAVES
)
#: Every rule, in the order in which they are tried.
RULES: Final[tuple[Rule, ...]] = (*FOLDING, *INTEGER_RULES, *FLOAT_RULES, *COMPARISON_RULES, *LOGIC_RULES)
_BY_OP: Final = {op: tuple(rule for rule in RULES if rule.op is op) for op in OPS}


def simplify(expr: Expr) -> Expr:
    """The expression in its simplest form; simplifying that again changes nothing."""
    return rewrite(expr, _BY_OP)

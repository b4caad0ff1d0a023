"""Names in generated code: the user's where there are any, otherwise nouns for what a value holds.

A `Namer` hands out each name once. In canonical form it knows no user's names, so that the digest of a kernel does not
depend on them.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from typing import Final

from attncc.ir import Expr, Op

NOUNS: Final[dict[Op, str]] = {
    Op.ADD: "sum",
    Op.SUB: "difference",
    Op.MUL: "product",
    Op.DIV: "quotient",
    Op.FLOORDIV: "block",
    Op.MOD: "remainder",
    Op.POW: "power",
    Op.NEG: "negative",
    Op.ABS: "distance",
    Op.MIN: "smaller",
    Op.MAX: "larger",
    Op.SHIFT_LEFT: "shifted",
    Op.SHIFT_RIGHT: "shifted",
    Op.EXP: "exponential",
    Op.EXP2: "exponential",
    Op.EXPM1: "exponential",
    Op.LOG: "logarithm",
    Op.LOG2: "logarithm",
    Op.LOG1P: "logarithm",
    Op.SQRT: "root",
    Op.RSQRT: "inverse_root",
    Op.FLOOR: "rounded",
    Op.CEIL: "rounded",
    Op.ROUND: "rounded",
    Op.TRUNC: "rounded",
    Op.LT: "is_less",
    Op.LE: "is_at_most",
    Op.GT: "is_greater",
    Op.GE: "is_at_least",
    Op.EQ: "is_equal",
    Op.NE: "is_different",
    Op.AND: "holds",
    Op.OR: "holds",
    Op.XOR: "differs",
    Op.NOT: "fails",
    Op.WHERE: "chosen",
    Op.CAST: "number",
    Op.NARROW: "narrow",
}
#: Whose value it is: the first set that holds all inputs on which it depends.
OWNERS: Final[tuple[tuple[frozenset[str], str], ...]] = (
    (frozenset(), "common"),
    (frozenset({"h"}), "head"),
    (frozenset({"b"}), "batch"),
    (frozenset({"b", "h"}), "head"),
    (frozenset({"b", "h", "q_idx"}), "query"),
    (frozenset({"b", "h", "kv_idx"}), "key"),
    (frozenset({"b", "h", "q_idx", "kv_idx"}), "pair"),
)


def describe(expr: Expr, axes: frozenset[str], noun: str | None = None) -> str:
    """What an expression holds, in words: `head_slopes`, `pair_difference`, `score_tanh`; `noun` replaces the last."""
    owner = next((word for inputs, word in OWNERS if axes <= inputs), "score")
    if noun is None:
        noun = str(expr.value) if expr.op is Op.LOAD else NOUNS.get(expr.op, expr.op.value)
    return noun if noun.startswith(owner) else f"{owner}_{noun}"


class Namer:
    """Hands out names that are free: Python's words and those of the template are taken from the start."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = {*taken, *keyword.kwlist, *keyword.softkwlist}

    def take(self, wanted: str) -> str:
        """The wanted name, or the same with a number."""
        stem = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        stem = f"_{stem}" if not stem or stem[0].isdigit() else stem
        name, count = stem, 1
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

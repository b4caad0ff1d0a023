"""A few calls written out in numbers: a form that is negative in one of them needs no search for a proof.

Most questions whether a bound always holds have the answer no. A sample that the facts allow settles those at once; one
that they do not allow could only hide a proof, never make one.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from attncc.analysis.linear import Form
from attncc.ir import Expr, Op
from attncc.ir.evaluate import EVALUATE

#: batch, heads, q_len, kv_len, and where a tile of each side starts and ends.
Call = tuple[int, int, int, int, tuple[int, int], tuple[int, int]]
CALLS: Final[tuple[Call, ...]] = (
    (3, 5, 1000, 1000, (256, 383), (384, 511)),
    (2, 8, 700, 3000, (0, 15), (64, 127)),
    (1, 1, 40, 9, (37, 39), (0, 0)),
    (4, 12, 5000, 5000, (4096, 4999), (0, 31)),
    (2, 2, 1, 1, (0, 0), (0, 0)),
    (1, 16, 90000, 400, (81920, 81983), (380, 399)),
    (2, 3, 64, 2000, (32, 63), (1920, 1999)),
    (8, 4, 2048, 2048, (1000, 1003), (1001, 1002)),
)
#: What parameters are: any number, many small ones.
_PARAMETERS: Final = (0, 1, 2, 3, 4, 7, 16, 60, 128, 1000, 5000, 200_000, -1, -6, -300, 12)
#: Where a call has sizes and ends of tiles, and where the bounds of what is drawn.
_ENDS: Final = {"batch": 0, "heads": 1, "q_len": 2, "kv_len": 3, "q_min": 4, "q_max": 5, "kv_min": 6, "kv_max": 7}
_BELOW: Final = {"b": 0, "h": 1, "q_idx": 2, "kv_idx": 3}
_DIVISORS: Final = tuple(value for value in _PARAMETERS if value > 0)
#: Operations on whole numbers and Bools that are known in every call; division by 0 is not.
_WHOLE: Final[Mapping[Op, Callable[..., Any]]] = {
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.NEG: operator.neg,
    Op.ABS: abs,
    Op.MIN: min,
    Op.MAX: max,
    Op.FLOORDIV: operator.floordiv,
    Op.MOD: operator.mod,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
    Op.AND: operator.and_,
    Op.OR: operator.or_,
    Op.NOT: operator.not_,
    Op.WHERE: lambda condition, a, b: a if condition else b,
}


class Samples:
    """Values of atoms in each call. `positive` are taken to be at least 1, `ordered` maps a value to a smaller one."""

    def __init__(
        self, ordered: Mapping[Expr, Expr], positive: Iterable[Expr] = (), calls: tuple[Call, ...] = CALLS
    ) -> None:
        self.calls = calls
        self.zeros = (0,) * len(calls)
        self.ordered = dict(ordered)
        self.positive = frozenset(positive)
        self.known: dict[Expr, tuple[float, ...]] = {}
        self.unknown: set[Expr] = set()

    def refute(self, form: Form) -> bool:
        """Whether form >= 0 is wrong in one of the calls."""
        return True in map(operator.lt, self.sums(form), self.zeros)

    def refute_order(self, smaller: Expr, larger: Expr) -> bool:
        """Whether smaller <= larger is wrong in one of the calls."""
        return True in map(operator.lt, self.values(larger), self.values(smaller))

    def sums(self, form: Form) -> list[float]:
        """The form in each call."""
        totals: list[float] = [form.constant] * len(self.calls)
        for product, count in form.terms.items():
            values = self.values(product[0])
            for atom in product[1:]:
                values = tuple(map(operator.mul, values, self.values(atom)))
            totals = [total + count * value for total, value in zip(totals, values, strict=True)]
        return totals

    def values(self, expr: Expr) -> tuple[float, ...]:
        """The expression in each call; NaN where it has no value, or one that is not looked for."""
        found = self.known.get(expr)
        if found is None:
            stack = [expr]
            while stack:
                pending = [arg for arg in stack[-1].args if arg not in self.known]
                if pending:
                    stack += pending
                else:
                    each = stack.pop()
                    self.known[each] = self._values(each)
            found = self.known[expr]
        return found

    def work_out(self, order: Iterable[Expr]) -> None:
        """The values of expressions that stand in an order of arguments before their users."""
        for each in order:
            if each not in self.known:
                self.known[each] = self._values(each)

    def _values(self, expr: Expr) -> tuple[float, ...]:
        whole = _WHOLE.get(expr.op)
        if whole is not None and self.unknown.isdisjoint(expr.args) and expr not in self.positive:
            try:
                return tuple(map(whole, *[self.known[arg] for arg in expr.args]))
            except ZeroDivisionError:
                pass
        if expr.op is Op.CONST and isinstance(expr.value, int):
            return (expr.value,) * len(self.calls)
        found = tuple(self._value(expr, call) for call in range(len(self.calls)))
        if any(value != value for value in found):
            self.unknown.add(expr)
        return found

    def _value(self, expr: Expr, call: int) -> float:
        value: Any = None
        match expr.op:
            case Op.CONST:
                value = expr.value
            case Op.INPUT | Op.PARAM:
                value = self._leaf(expr, call)
            case Op.LOAD | Op.CAST | Op.NARROW:
                return math.nan
            case _:
                args = [self.known[arg][call] for arg in expr.args]
                if any(arg != arg for arg in args):
                    return math.nan
                try:
                    value = EVALUATE[expr.op](*args)
                except (ArithmeticError, ValueError):
                    return math.nan
        return value if isinstance(value, int) and (expr not in self.positive or value >= 1) else math.nan

    def _leaf(self, expr: Expr, call: int) -> float:
        batch, heads, q_len, kv_len, q, kv = self.calls[call]
        name = str(expr.value)
        if name in _ENDS:
            return (batch, heads, q_len, kv_len, *q, *kv)[_ENDS[name]]
        drawn = zlib.crc32(f"{call} {name}".encode())  # the same in every process
        if name in _BELOW:
            lo, hi = ((0, batch - 1), (0, heads - 1), q, kv)[_BELOW[name]]
            return lo + drawn % (hi - lo + 1)
        smaller = self.ordered.get(expr)
        if smaller is not None:
            return self.values(smaller)[call] + (0, 3, 50)[drawn % 3]
        numbers = _DIVISORS if expr in self.positive else _PARAMETERS
        return numbers[drawn % len(numbers)]

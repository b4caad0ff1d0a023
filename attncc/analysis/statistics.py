"""What captured tensors tell of a tile: the least and the largest value along one side.

A maximal subexpression that reads captures and changes along one side only, q or kv, is a `Statistic`. It is computed
once for each position, O(N), and its minima and maxima over the positions of a block stand in for it. What rounds is
left to the interval rules, because a kernel may round differently from whoever computes the statistic.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from attncc.analysis.interval import Interval
from attncc.analysis.linear import Form, atom_form, expression
from attncc.analysis.logic import literal, literal_form
from attncc.analysis.shape import reads_captures, side
from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, node, postorder, with_args

#: Operations whose result is the same on every device.
EXACT: Final = frozenset(Op) - {
    *(Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.FLOORDIV, Op.MOD, Op.POW, Op.NARROW, Op.CAST),
    *(Op.EXP, Op.EXP2, Op.EXPM1, Op.LOG, Op.LOG2, Op.LOG1P, Op.SQRT, Op.RSQRT),
    *(Op.TANH, Op.SIGMOID, Op.SIN, Op.COS, Op.ATAN, Op.ERF),
}


@dataclass(frozen=True, slots=True)
class Statistic:
    """An expression that changes along `axis` (`q` or `kv`) only, of which a tile test needs minimum and maximum.

    The test reads them as parameters `stat{number}_min`, `stat{number}_max` and, for a Float, the Bool
    `stat{number}_nan`: whether a value in the tile may be NaN. A Bool's minimum is `all`, its maximum `any`.
    """

    expr: Expr
    axis: str
    number: int

    @property
    def least(self) -> Expr:
        """The parameter that holds the minimum."""
        return self._parameter("min", self.expr.scalar)

    @property
    def largest(self) -> Expr:
        """The parameter that holds the maximum."""
        return self._parameter("max", self.expr.scalar)

    @property
    def nan(self) -> Expr:
        """The Bool parameter that says whether a value may be NaN; read for Floats only."""
        return self._parameter("nan", Scalar.BOOL)

    @property
    def placeholder(self) -> Expr:
        """What stands for the value while a test is made; it is never handed out."""
        position = Q_IDX if self.axis == "q" else KV_IDX
        return node(Op.LOAD, (position,), f"stat{self.number}", self.expr.scalar)

    @property
    def interval(self) -> Interval:
        """The statistic's interval, in parameters."""
        return Interval(self.least, self.largest, self.nan if self.expr.scalar is Scalar.FLOAT else False)

    def _parameter(self, what: str, scalar: Scalar) -> Expr:
        return node(Op.PARAM, (), f"stat{self.number}_{what}", scalar)


class Extraction:
    """One run over a condition: replaces what reads captures along one side by placeholders, and remembers them."""

    def __init__(self) -> None:
        self.found: dict[Expr, Statistic] = {}
        self.done: dict[Expr, Expr] = {}
        self.forms: dict[Expr, Form] = {}

    def run(self, root: Expr) -> Expr:
        """The condition with placeholders; iterative."""
        stack = [root]
        while stack:
            expr = stack[-1]
            if expr in self.done:
                stack.pop()
            elif not reads_along_a_side(expr):
                self.done[stack.pop()] = expr
            elif side(expr) != "pair" and is_exact(expr):
                self.done[stack.pop()] = self._statistic(expr).placeholder
            else:
                separated = self._separated(expr)
                parts = expr.args if separated is None else sorted(separated[1].atoms(), key=_nameless)
                pending = [part for part in parts if part not in self.done]
                if pending:
                    stack.extend(reversed(pending))
                else:
                    self.done[stack.pop()] = self._rebuilt(expr, separated)
        return self.done[root]

    def _rebuilt(self, expr: Expr, separated: tuple[Op, Form] | None) -> Expr:
        if separated is None:
            return with_args(expr, tuple(self.done[arg] for arg in expr.args))
        op, form = separated
        total = Form({}, form.constant)
        for monomial, coefficient in form.terms.items():
            product = Form({}, coefficient)
            for atom in monomial:
                product = product.times(atom_form(self.done[atom]))
            total = total.plus(product)
        return literal(op, total)

    def _statistic(self, expr: Expr) -> Statistic:
        if expr not in self.found:
            self.found[expr] = Statistic(expr, side(expr), len(self.found))
            self.done[self.found[expr].placeholder] = self.found[expr].placeholder
        return self.found[expr]

    def _separated(self, expr: Expr) -> tuple[Op, Form] | None:
        """A comparison with the captured values of each side collected: offsets[q_idx] + q_idx against kv_idx."""
        found = literal_form(expr)
        if found is None:
            return None
        op, form = found
        for axis in ("q", "kv"):
            group = Form({m: c for m, c in form.terms.items() if _axis(m) == axis})
            if len(group.terms) > 1 and any(reads_along_a_side(atom) for atom in group.atoms()):
                sign = 1 if group.ordered()[0][1] > 0 else -1
                placeholder = self._statistic(expression(group.scaled(sign))).placeholder
                form = form.plus(group, -1).plus(atom_form(placeholder), sign)
        return op, form


def _nameless(expr: Expr) -> tuple[str, str]:
    """An order of atoms that names of captured tensors do not decide, so that statistics are numbered alike."""
    held = (e.op.value if e.op is Op.LOAD else f"{e.op.value} {e.value}" for e in postorder(expr))
    return side(expr), "; ".join(held)


def reads_along_a_side(expr: Expr) -> bool:
    """Whether a captured value in it changes with q_idx or kv_idx; lengths[b] does not."""
    return reads_captures(expr) and any(e.op is Op.LOAD and side(e) != "point" for e in postorder(expr))


def _axis(monomial: tuple[Expr, ...]) -> str:
    sides = {side(atom) for atom in monomial} - {"point"}
    return sides.pop() if len(sides) == 1 else "point" if not sides else "pair"


def is_exact(expr: Expr) -> bool:
    """Whether every device computes the same value: integers, comparisons of captured values, selections."""
    return all(each.scalar is not Scalar.FLOAT or _is_exact_float(each) for each in postorder(expr))


def _is_exact_float(expr: Expr) -> bool:
    if expr.op is Op.CONST and isinstance(expr.value, float):
        try:
            return bool(struct.unpack("<f", struct.pack("<f", expr.value))[0] == expr.value)
        except OverflowError:
            return False
    return expr.op in EXACT

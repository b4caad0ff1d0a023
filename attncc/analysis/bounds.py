"""Walking an expression with the interval rules, after differences have cancelled.

Index sums are bounded as one `Form`, and a comparison of two Index expressions as the sign of their difference, so
`q_idx - q_idx` is 0 and `abs(q_idx - kv_idx) < w` is as tight as its parts. Everything else follows `TRANSFER`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.interval import Interval, multiply, point, scaled, union, unknown
from attncc.analysis.linear import LINEAR_OPS, Form, form_of
from attncc.analysis.numbers import PYTHON, Numbers
from attncc.analysis.transfer import TRANSFER
from attncc.ir import Expr, Op, Scalar

Leaf = Callable[[Expr], Interval | None]
Loader = Callable[[str, tuple[int, ...]], bool | int | float]
COMPARISONS: Final = frozenset({Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE})
_LEAVES: Final = frozenset({Op.CONST, Op.INPUT, Op.PARAM})


@dataclass(frozen=True, slots=True)
class Box:
    """Where the inputs lie: inputs and parameters by name, and any subexpression whose interval is known otherwise."""

    inputs: Mapping[str, Interval]
    values: Mapping[Expr, Interval]


class Walk:
    """One walk over any number of roots with the same numbers and leaves; remembers each node's interval."""

    def __init__(self, numbers: Numbers, leaf: Leaf, load: Callable[[Expr, Sequence[Interval]], Interval]) -> None:
        self.numbers = numbers
        self.leaf = leaf
        self.load = load
        self.done: dict[Expr, Interval] = {}
        self.forms: dict[Expr, Form] = {}

    def interval(self, root: Expr) -> Interval:
        """The interval of one expression; iterative."""
        stack = [root]
        while stack:
            expr = stack[-1]
            if expr in self.done:
                stack.pop()
                continue
            given = self.leaf(expr)
            if given is not None:
                self.done[stack.pop()] = given
                continue
            operands = self._operands(expr)
            pending = [each for each in operands if each not in self.done]
            if pending:
                stack.extend(pending)
            else:
                self.done[stack.pop()] = self._own(expr)
        return self.done[root]

    def sum(self, form: Form) -> Interval:
        """The interval of a form whose atoms have been walked."""
        n = self.numbers
        total = point(n.const(form.constant))
        for monomial, coefficient in form.ordered():
            product = self.done[monomial[0]]
            for atom in monomial[1:]:
                product = multiply(n, product, self.done[atom])
            term = scaled(n, product, coefficient)
            total = Interval(n.add(total.lo, term.lo), n.add(total.hi, term.hi), n.or_(total.nan, term.nan))
        return total

    def _form(self, expr: Expr) -> Form | None:
        """The form that stands for an Index sum, or for the difference that a comparison compares with 0."""
        if expr.op in COMPARISONS and expr.args[0].scalar is Scalar.INDEX:
            return form_of(expr.args[0], self.forms).plus(form_of(expr.args[1], self.forms), -1)
        if expr.op in LINEAR_OPS and expr.scalar is Scalar.INDEX:
            form = form_of(expr, self.forms)
            return None if form.terms.get((expr,)) == 1 else form
        return None

    def _operands(self, expr: Expr) -> Sequence[Expr]:
        form = self._form(expr)
        return expr.args if form is None else form.atoms()

    def _own(self, expr: Expr) -> Interval:
        form = self._form(expr)
        if form is not None and expr.op in COMPARISONS:
            return self._compared(expr, form)
        if form is not None:
            return self.sum(form)
        args = [self.done[arg] for arg in expr.args]
        if expr.op is Op.LOAD:
            return self.load(expr, args)
        return TRANSFER[expr.op](self.numbers, expr, args)

    def _compared(self, expr: Expr, form: Form) -> Interval:
        n = self.numbers
        if expr.op in (Op.EQ, Op.NE) and form.terms and form.constant % form.content:
            return point(n.const(expr.op is Op.NE))  # 2 * q_idx == 2 * kv_idx + 1
        return TRANSFER[expr.op](n, expr, (self.sum(form), point(n.const(0))))


def bounds(root: Expr, box: Box, load: Loader | None = None, numbers: Numbers = PYTHON) -> Interval:
    """Between which numbers the expression lies when its inputs do. `load` reads captured tensors at single points."""
    return Walk(numbers, leaves(box), loading(load)).interval(root)


def leaves(box: Box) -> Leaf:
    """The leaves of a walk over a box; what the box does not name is unknown."""

    def leaf(expr: Expr) -> Interval | None:
        if expr in box.values:
            return box.values[expr]
        if expr.op in (Op.INPUT, Op.PARAM):
            return box.inputs.get(str(expr.value), unknown(expr.scalar))
        return None

    return leaf


def loading(load: Loader | None) -> Callable[[Expr, Sequence[Interval]], Interval]:
    """Reading captured tensors where every index is a single number."""

    def read(expr: Expr, index: Sequence[Interval]) -> Interval:
        single = all(i.nan is False and i.lo == i.hi for i in index)
        if load is None or not single:
            return unknown(expr.scalar)
        value = load(str(expr.value), tuple(int(i.lo) for i in index))
        return unknown(expr.scalar) if value != value else point(value)

    return read


def hull(n: Numbers, intervals: Sequence[Interval]) -> Interval:
    """The smallest interval that holds all of them."""
    result = intervals[0]
    for each in intervals[1:]:
        result = union(n, result, each)
    return result

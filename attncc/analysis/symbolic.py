"""Expressions as numbers: the interval rules then write the bounds themselves, simplified by what is known.

Known are the order of bounds (q_min <= q_max), that positions are not negative and that sizes are at least 1. A minimum
of two bounds whose order follows from that is the smaller one; a comparison that follows is True or False at once.
Unknown bounds of an Index are the constants -inf, inf and NaN; they never reach an expression that is handed out.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from attncc.analysis.bounds import Box, Walk, leaves, loading
from attncc.analysis.interval import Interval
from attncc.analysis.linear import ONE, Form, at_least_zero, atom_form, difference, expression, form_of, sort_key
from attncc.analysis.logic import joined, literal_form, negated, parts
from attncc.analysis.numbers import INF, PYTHON, Value
from attncc.analysis.samples import Samples
from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, cast, const, param

#: The ends of a tile, both included, as parameters of the expressions that classify it.
Q_MIN, Q_MAX, KV_MIN, KV_MAX = (param(name) for name in ("q_min", "q_max", "kv_min", "kv_max"))
#: Positions and sizes are below this, by far.
LARGEST: Final = 2**40
NONNEGATIVE: Final = Interval(0, LARGEST)
POSITIVE: Final = Interval(1, LARGEST)
#: What holds for every call: positions and heads count from 0, sizes from 1.
FACTS: Final[Mapping[str, Interval]] = {
    **dict.fromkeys(("b", "h", "q_idx", "kv_idx", "q_min", "q_max", "kv_min", "kv_max"), NONNEGATIVE),
    **dict.fromkeys(("batch", "heads", "q_len", "kv_len"), POSITIVE),
}
#: log2 of the sizes of an Index.
INDEX_BITS: Final = 63.0
#: Of more operands or conditions than this, none is compared with the others.
MAX_OPERANDS: Final = 16


class ExprNumbers:
    """The algebra of expressions. `ordered` maps the larger bound of a pair to the smaller one; `positive` holds
    expressions that are taken to be at least 1."""

    def __init__(self, ordered: Mapping[Expr, Expr], positive: Iterable[Expr] = ()) -> None:
        self.ordered, positive = dict(ordered), tuple(positive)
        self.walk = Walk(PYTHON, leaves(Box(FACTS, dict.fromkeys(positive, Interval(1, INF)))), loading(None))
        self.samples = Samples(ordered, positive)
        self.forms: dict[Expr, Form] = {}
        self.proofs: dict[object, bool] = {}
        self.orders: dict[tuple[Expr, Expr], bool] = {}

    def const(self, value: bool | int | float) -> Value:
        return const(value)

    def add(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if _is_float(a, b):
            return apply(Op.ADD, a, b)
        if _is_open(a) or _is_open(b):
            return a if _is_open(a) else b
        return expression(difference(a, self.neg(b), self.forms))

    def neg(self, a: Value) -> Value:
        a = _lifted(a)
        if a.scalar is Scalar.FLOAT:
            return apply(Op.NEG, a)
        return expression(difference(const(0), a, self.forms))

    def mul(self, a: Value, b: Value, exact: bool) -> Value:
        a, b = _lifted(a), _lifted(b)
        if not exact:
            return apply(Op.MUL, a, b)
        if a is const(0) or b is const(0):
            return const(0)
        if _is_open(a) or _is_open(b):
            return self._open_product(a, b)
        return expression(form_of(a, self.forms).times(form_of(b, self.forms)))

    def _open_product(self, a: Expr, b: Expr) -> Expr:
        """The product of an unknown bound and another: known only by the other's sign."""
        limit, other = (a, b) if _is_open(a) else (b, a)
        if _is_open(other):
            return const(_number(a) * _number(b))
        fact = self.fact(other)
        if fact.lo > 0:
            return limit
        return const(-_number(limit)) if fact.hi < 0 else const(math.nan)

    def divide(self, a: Value, b: Value) -> Value:
        return apply(Op.DIV, _lifted(a), _lifted(b))

    def floordiv(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if _is_open(a) or _is_open(b):
            return self._open_product(a, const(1) if _is_open(b) else b) if _is_open(a) else const(math.nan)
        if b is const(1) or a is const(0):
            return a
        return apply(Op.FLOORDIV, a, b)

    def mod(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if _is_open(a) or _is_open(b):
            return const(math.nan)
        if self.lt(a, b) is TRUE and self.le(const(0), a) is TRUE:
            return a
        return apply(Op.MOD, a, b)

    def power(self, a: Value, exponent: int) -> Value:
        base = result = _lifted(a)
        for _ in range(exponent - 1):
            result = _lifted(self.mul(result, base, base.scalar is Scalar.INDEX))
        return result

    def min(self, a: Value, b: Value) -> Value:
        return self._extreme(_lifted(a), _lifted(b), Op.MIN, INF)

    def max(self, a: Value, b: Value) -> Value:
        return self._extreme(_lifted(a), _lifted(b), Op.MAX, -INF)

    def _extreme(self, a: Expr, b: Expr, op: Op, neutral: float) -> Expr:
        if a is b:
            return a
        if a.scalar is Scalar.BOOL:
            return _lifted(self.and_(a, b) if op is Op.MIN else self.or_(a, b))
        if _is_float(a, b):
            order = self._float_order(Op.LE, a, b)
            return (a if (order is TRUE) == (op is Op.MIN) else b) if order.op is Op.CONST else apply(op, a, b)
        if _is_open(a) or _is_open(b):
            limit, other = (a, b) if _is_open(a) else (b, a)
            return other if _number(limit) == neutral else limit
        return self._least_set(op, list(dict.fromkeys([*parts(op, a), *parts(op, b)])))

    def least(self, operands: Iterable[Expr]) -> Expr:
        """The MIN of Index expressions, at once: each is compared with each other one only once."""
        return self._least_set(Op.MIN, list(dict.fromkeys(p for each in operands for p in parts(Op.MIN, each))))

    def largest(self, operands: Iterable[Expr]) -> Expr:
        """The MAX of Index expressions."""
        return self._least_set(Op.MAX, list(dict.fromkeys(p for each in operands for p in parts(Op.MAX, each))))

    def _least_set(self, op: Op, operands: list[Expr]) -> Expr:
        """The MIN (or MAX) of operands, without those that are certainly no smaller (larger) than another."""
        left = list(operands)
        if 1 < len(operands) <= MAX_OPERANDS:
            values = {each: self.samples.values(each) for each in operands}
            wrong = operator.lt if op is Op.MIN else operator.gt
            for mine in operands:
                possible = (o for o in left if o is not mine and True not in map(wrong, values[mine], values[o]))
                if any(self._is_certain(*((o, mine) if op is Op.MIN else (mine, o))) for o in possible):
                    left.remove(mine)
        result = left[0]
        for each in left[1:]:
            result = apply(op, result, each)
        return result

    def le(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if _is_float(a, b):
            return self._float_order(Op.LE, a, b)
        if _is_open(a) or _is_open(b):
            return const(_number(a) <= _number(b))
        return self.holds(difference(b, a, self.forms))

    def is_ordered(self, a: Expr, b: Expr) -> bool:
        """Whether a <= b in every call, of Index expressions that are known."""
        return not self.samples.refute_order(a, b) and self._is_certain(a, b)

    def _is_certain(self, a: Expr, b: Expr) -> bool:
        """`is_ordered` of what the samples do not refute."""
        if (a, b) not in self.orders:
            self.orders[a, b] = self.is_nonnegative(difference(b, a, self.forms))
        return self.orders[a, b]

    def holds(self, form: Form) -> Expr:
        """The condition form >= 0, True or False where the facts decide it."""
        if self.is_nonnegative(form):
            return TRUE
        return FALSE if self.is_nonnegative(form.scaled(-1).shifted(-1)) else at_least_zero(self.reduced(form))

    def reduced(self, form: Form) -> Form:
        """The form without a factor that all terms share and that is certainly positive."""
        return self.divided(form)[0]

    def divided(self, form: Form) -> tuple[Form, Form]:
        """The form without the factors that all terms share and that are certainly positive, and their product."""
        factor = ONE
        shared = [a for a in form.atoms() if form.constant == 0 and all(a in m for m in form.terms)]
        for atom in shared:
            while form.terms and form.constant == 0 and self.fact(atom).lo > 0 and all(atom in m for m in form.terms):
                form, factor = _over(form, atom), factor.times(atom_form(atom))
        return form, factor

    def all_of(self, conditions: Iterable[Expr]) -> Expr:
        """The conjunction, without bounds that follow from another one of them."""
        flat = parts(Op.AND, joined(Op.AND, *conditions))
        if len(flat) > MAX_OPERANDS:
            return joined(Op.AND, *flat)
        forms = [found[1] for each in flat if (found := literal_form(each)) is not None and found[0] is Op.GE]
        sums = [self.samples.sums(form) for form in forms]
        left = list(range(len(forms)))
        implied = set()
        place = iter(range(len(forms)))
        for each in flat:
            found = literal_form(each)
            if found is None or found[0] is not Op.GE:
                continue
            i = next(place)
            others = (j for j in left if j != i and True not in map(operator.lt, sums[i], sums[j]))
            if any(self.is_nonnegative(forms[i].plus(forms[j], -1)) for j in others):
                left.remove(i)
                implied.add(each)
        return joined(Op.AND, *(each for each in flat if each not in implied))

    def lt(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if _is_float(a, b):
            return self._float_order(Op.LT, a, b)
        if _is_open(a) or _is_open(b):
            return const(_number(a) < _number(b))
        return self.le(self.add(a, const(1)), b)

    def _float_order(self, op: Op, a: Expr, b: Expr) -> Expr:
        """A comparison of Floats as it stands, so that NaN makes it false; decided where one side is out of reach."""
        left, right = self.fact(a), self.fact(b)
        if left.nan is False and right.nan is False:
            compare = PYTHON.lt if op is Op.LT else PYTHON.le
            if compare(left.hi, right.lo):
                return TRUE
            if (PYTHON.le if op is Op.LT else PYTHON.lt)(right.hi, left.lo):
                return FALSE
        return apply(op, a, b)

    def and_(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if a is FALSE or b is FALSE:
            return FALSE
        if a is TRUE or a is b:
            return b
        return a if b is TRUE else joined(Op.AND, a, b)

    def or_(self, a: Value, b: Value) -> Value:
        a, b = _lifted(a), _lifted(b)
        if a is TRUE or b is TRUE:
            return TRUE
        if a is FALSE or a is b:
            return b
        return a if b is FALSE else joined(Op.OR, a, b)

    def not_(self, a: Value) -> Value:
        return negated(_lifted(a))

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        condition, a, b = _lifted(condition), _lifted(a), _lifted(b)
        if condition.op is Op.CONST:
            return a if condition is TRUE else b
        if a is b:
            return a
        if a.scalar is Scalar.BOOL:
            return self.or_(self.and_(condition, a), self.and_(self.not_(condition), b))
        if not _is_float(a, b) and (_is_open(a) or _is_open(b)):
            return a if _is_open(a) else b  # the wider of the two, whichever is chosen
        return apply(Op.WHERE, condition, a, b)

    def function(self, op: Op, a: Value) -> Value:
        return apply(op, _lifted(a))

    def as_float(self, a: Value) -> Value:
        a = _lifted(a)
        return a if _is_open(a) else cast(a, Scalar.FLOAT)

    def as_index(self, a: Value) -> Value:
        a = _lifted(a)
        found = self.fact(a)
        small = found.nan is False and found.lo > -(2.0**INDEX_BITS) and found.hi < 2.0**INDEX_BITS
        return cast(a, Scalar.INDEX) if small and not _is_open(a) else const(math.nan)

    def known(self, truth: Value) -> bool | None:
        truth = _lifted(truth)
        return bool(truth.value) if truth.op is Op.CONST else None

    def fact(self, expr: Expr) -> Interval:
        """Between which numbers the expression lies in every call."""
        found = self.walk.done.get(expr)
        return self.walk.interval(expr) if found is None else found

    def is_nonnegative(self, form: Form) -> bool:
        """Whether the form is at least 0 in every call, as far as the facts show."""
        if not form.terms:
            return form.constant >= 0
        key = (form.key(), form.constant)
        if key not in self.proofs:
            self.proofs[key] = False  # while it is being looked for
            self.proofs[key] = not self.samples.refute(form) and (
                self._is_nonnegative(form)
                or any(self._is_nonnegative(wider) for wider in self._without_quotients(form))
            )
        return self.proofs[key]

    def _without_quotients(self, form: Form) -> list[Form]:
        """Lower bounds of the form (or of a positive multiple): d * (x // d) lies between x - d + 1 and x."""
        wider: list[Form] = []
        done: set[Expr] = set()
        for monomial in form.terms:
            quotients = [a for a in monomial if a.op is Op.FLOORDIV and self.fact(a.args[1]).lo > 0]
            for atom in quotients[:1]:
                done.add(atom)
                if (bound := self._without(form, atom)) is not None:
                    wider.append(bound)
                    rest = [a for m in bound.terms for a in m if a.op is Op.FLOORDIV and a not in done]
                    wider += [b for a in rest if (b := self._without(bound, a))]
        return wider

    def _without(self, form: Form, quotient: Expr) -> Form | None:
        dividend, divisor = form_of(quotient.args[0], self.forms), form_of(quotient.args[1], self.forms)
        count = form.coefficient(quotient)
        if not divisor.terms and count is not None:  # c * u = c/d * (d * u)
            form, count = form.scaled(divisor.constant), count
        elif divisor.terms:
            product = tuple(sorted((quotient, quotient.args[1]), key=sort_key))
            count = form.terms.get(product)
            if count is None or any(quotient in m and m != product for m in form.terms):
                return None
            rest = Form({m: c for m, c in form.terms.items() if m != product}, form.constant)
            return rest.plus(dividend, count).plus(divisor.shifted(-1), -max(count, 0))
        if count is None:
            return None
        return form.without(quotient).plus(dividend, count).shifted(-max(count, 0) * (divisor.constant - 1))

    def _is_nonnegative(self, form: Form) -> bool:
        counts = {m[0]: c for m, c in form.terms.items() if len(m) == 1}
        for smaller in [e for e, c in counts.items() if c < 0]:
            for larger in [e for e, c in counts.items() if c > 0]:
                if counts[smaller] < 0 and self._is_ordered(smaller, larger):
                    shared = min(counts[larger], -counts[smaller])
                    counts[larger] -= shared
                    counts[smaller] += shared
        least: float = form.constant
        for monomial, count in form.terms.items():
            count = counts[monomial[0]] if len(monomial) == 1 else count
            if count:
                lo, hi = self._product(monomial)
                least += count * (lo if count > 0 else hi)
            if least == -INF:
                return False
        return least >= 0

    def _product(self, monomial: Sequence[Expr]) -> tuple[float, float]:
        """Between which numbers a product of atoms lies in every call."""
        lo: float = 1
        hi: float = 1
        for atom in monomial:
            found = self.fact(atom)
            if found.nan is not False:
                return -INF, INF
            products = [PYTHON.mul(x, y, True) for x in (lo, hi) for y in (found.lo, found.hi)]
            lo, hi = min(products), max(products)
        return lo, hi

    def _is_ordered(self, smaller: Expr, larger: Expr) -> bool:
        """Whether smaller <= larger: a known pair, an operand of a min or max, or one step function of such."""
        if self.ordered.get(larger) is smaller:
            return True
        if (smaller.op is Op.MIN and larger in smaller.args) or (larger.op is Op.MAX and smaller in larger.args):
            return True
        if smaller.op is Op.FLOORDIV and larger.op is Op.FLOORDIV and smaller.args[1] is larger.args[1]:
            grows = self.fact(smaller.args[1]).lo > 0
            return bool(grows) and self.is_nonnegative(difference(larger.args[0], smaller.args[0], self.forms))
        return False


def _over(form: Form, atom: Expr) -> Form:
    """The form, each of whose terms has the atom, divided by it."""
    terms: dict[tuple[Expr, ...], int] = {}
    constant = 0
    for monomial, count in form.terms.items():
        rest = list(monomial)
        rest.remove(atom)
        if rest:
            terms[tuple(rest)] = count
        else:
            constant = count
    return Form(terms, constant)


def _lifted(value: Value) -> Expr:
    return value if isinstance(value, Expr) else const(value)


def _number(expr: Expr) -> float:
    """The value of a constant; 0, which lies between the infinities, for any other expression."""
    return float(expr.value) if expr.op is Op.CONST and isinstance(expr.value, bool | int | float) else 0.0


def _is_open(expr: Expr) -> bool:
    return expr.op is Op.CONST and isinstance(expr.value, float) and not math.isfinite(expr.value)


def _is_float(a: Expr, b: Expr) -> bool:
    """Whether a or b is a Float in its own right, not the unknown bound of an Index."""
    return any(e.scalar is Scalar.FLOAT and not _is_open(e) for e in (a, b))

"""The algebra of comparisons. Those of Floats are false where an operand is NaN (`!=` is true), and stay so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from attncc.ir import BATCH, FALSE, HEADS, KV_IDX, KV_LEN, Q_IDX, Q_LEN, TRUE, B, Expr, H, Op, Scalar, apply, const
from attncc.passes.rules import (
    BOOL,
    COMPARISONS,
    FLIPPED,
    FLOAT,
    INDEX,
    ORDERS,
    ZERO,
    Replace,
    Row,
    either,
    integer,
    invert,
    is_const,
    number,
    rules_of,
    split,
    sub,
    whole,
)

#: Each index lies from 0 to one below its size.
SIZES: Final[Mapping[Expr, Expr]] = {Q_IDX: Q_LEN, KV_IDX: KV_LEN, H: HEADS, B: BATCH}
#: A float32 holds every int up to this one exactly, and no other int is rounded to below it.
EXACT: Final = 2**24
EQUALITIES: Final = (Op.EQ, Op.NE)


def _each(text: str, make: Callable[[Op], Replace], ops: tuple[Op, ...] = COMPARISONS) -> list[Row]:
    """One row for each comparison; `?` in the text stands for it."""
    return [(text.replace("?", op.value), op, make(op)) for op in ops]


def _flip(op: Op) -> Replace:
    return lambda i, j: apply(FLIPPED[op], j, i) if is_const(i) and not is_const(j) else None


def _itself(op: Op) -> Replace:
    return lambda i, j: (TRUE if op in (Op.LE, Op.GE, Op.EQ) else FALSE) if i is j else None


def _move_constant(op: Op) -> Replace:
    def move(i: Expr, j: Expr) -> Expr | None:
        left, right = split(i, Op.ADD), split(j, Op.ADD)
        if left is not None and (right is not None or is_const(j)):
            other, d = right or (ZERO, integer(j) or 0)
            return apply(op, left[0], apply(Op.ADD, other, whole(d - left[1])))
        if left is not None:  # a constant stands on the right
            return apply(op, left[0], apply(Op.ADD, j, whole(-left[1])))
        if is_const(j) and i.op is Op.SUB and is_const(i.args[0]):
            return apply(FLIPPED[op], i.args[1], sub(i.args[0], j))
        return None

    return move


def _move_term(op: Op) -> Replace:
    """i - j against 0, and -i against a constant."""

    def move(i: Expr, j: Expr) -> Expr | None:
        if i.op is Op.SUB and j is ZERO:
            return apply(op, *i.args)
        if i.op is Op.NEG and (is_const(j) or j.op is Op.NEG):
            return apply(FLIPPED[op], i.args[0], apply(Op.NEG, j))
        return None

    return move


def _cancel(op: Op) -> Replace:
    """i + k against j + k, i - k against j - k, and i + k against i."""

    def cancel(i: Expr, j: Expr) -> Expr | None:
        if i.op is Op.ADD and j.op is Op.ADD:
            for a in (0, 1):
                for b in (0, 1):
                    if i.args[a] is j.args[b]:
                        return apply(op, i.args[1 - a], j.args[1 - b])
        if i.op is Op.SUB and j.op is Op.SUB and i.args[1] is j.args[1]:
            return apply(op, i.args[0], j.args[0])
        if i.op is Op.SUB and j.op is Op.SUB and i.args[0] is j.args[0]:
            return apply(FLIPPED[op], i.args[1], j.args[1])
        if i.op is Op.ADD and j in i.args:
            return apply(op, i.args[1] if i.args[0] is j else i.args[0], ZERO)
        if j.op is Op.ADD and i in j.args:
            return apply(FLIPPED[op], j.args[1] if j.args[0] is i else j.args[0], ZERO)
        return None

    return cancel


def _divide(op: Op) -> Replace:
    """i * c against d; the bound is rounded to the side that keeps the same ints."""

    def divide(i: Expr, j: Expr) -> Expr | None:
        product, d = split(i, Op.MUL), integer(j)
        if product is None or d is None or product[1] == 0:
            return None
        k, c = product
        if op in EQUALITIES:
            return apply(op, k, whole(d // c)) if d % c == 0 else const(op is Op.NE)
        turned, c, d = (op, c, d) if c > 0 else (FLIPPED[op], -c, -d)
        down = turned in (Op.LE, Op.GT)  # k <= d / c and k > d / c keep their ints when d / c is rounded down
        return apply(turned, k, whole(d // c if down else -(-d // c)))

    return divide


def _multiply(op: Op) -> Replace:
    """i // c against d, for c > 0: i // c < d is i < c * d, and i // c <= d is i < c * (d + 1)."""

    def multiply(i: Expr, j: Expr) -> Expr | None:
        quotient, d = split(i, Op.FLOORDIV), integer(j)
        if quotient is None or d is None or quotient[1] <= 0:
            return None
        k, c = quotient
        strict = {Op.LT: (Op.LT, d), Op.LE: (Op.LT, d + 1), Op.GE: (Op.GE, d), Op.GT: (Op.GE, d + 1)}[op]
        return apply(strict[0], k, whole(strict[1] * c))

    return multiply


def _range_of(expr: Expr) -> tuple[float, float] | None:
    """Bounds of an Index that its outermost operation shows."""
    remainder = split(expr, Op.MOD)
    if remainder is not None and remainder[1] != 0:
        c = remainder[1]
        return (0, c - 1) if c > 0 else (c + 1, 0)
    low, high = split(expr, Op.MAX), split(expr, Op.MIN)
    if low is not None or high is not None:
        return (low[1] if low else -math.inf), (high[1] if high else math.inf)
    if expr.op is Op.INPUT:
        return (0 if expr in SIZES else -math.inf), math.inf
    return (0, math.inf) if expr.op is Op.ABS else None


def _decide(op: Op) -> Replace:
    """A comparison with a constant that the range of an operation decides."""

    def decide(i: Expr, j: Expr) -> Expr | None:
        found, d = _range_of(i), integer(j)
        if found is None or d is None:
            return None
        low, high = found
        match op:
            case Op.LT | Op.GE:
                known = True if high < d else False if low >= d else None
            case Op.LE | Op.GT:
                known = True if high <= d else False if low > d else None
            case _:
                known = False if d < low or d > high else None
        return None if known is None else const(known is (op in (Op.LT, Op.LE, Op.EQ)))

    return decide


def _unbound(op: Op) -> Replace:
    """min(i, c) or max(i, c) against d, where c does not decide it."""

    def unbound(i: Expr, j: Expr) -> Expr | None:
        inner, d = split(i, Op.MIN) or split(i, Op.MAX), integer(j)
        if inner is None or d is None:
            return None
        k, c = inner
        # i keeps the answer that c alone would give exactly where c is not the answer itself.
        alone = apply(op, const(c), j)
        bounded_above = i.op is Op.MIN
        upward = op in (Op.GT, Op.GE)  # the comparison is true for large numbers
        if (alone is TRUE) == (bounded_above == upward):
            return apply(op, k, j)
        return None

    return unbound


def _size(op: Op) -> Replace:
    known = {Op.LT: TRUE, Op.LE: TRUE, Op.GT: FALSE, Op.GE: FALSE, Op.EQ: FALSE, Op.NE: TRUE}[op]
    return lambda i, j: known if SIZES.get(i) is j else None


INDEX_COMPARISONS: Final = rules_of(
    INDEX,
    *_each("c ? i -> i ? c, turned", _flip),
    *_each("i ? i -> true or false", _itself),
    *_each("i + c ? d -> i ? d - c", _move_constant),
    *_each("i - j ? 0 -> i ? j", _move_term),
    *_each("i + k ? j + k -> i ? j", _cancel),
    *_each("i * c ? d -> i ? d / c, rounded", _divide),
    *_each("i // c ? d -> i ? d * c, c > 0", _multiply, ORDERS),
    *_each("i % c ? d -> true or false", _decide),
    *_each("min(i, c) ? d -> i ? d", _unbound, ORDERS),
    *_each("q_idx ? q_len -> true or false", _size),
)


def _itself_or_nan(op: Op) -> Replace:
    return lambda x, y: FALSE if x is y else None


def _with_nan(op: Op) -> Replace:
    return lambda x, y: const(op is Op.NE) if _is_nan(x) or _is_nan(y) else None


def _is_nan(x: Expr) -> bool:
    value = number(x)
    return value is not None and math.isnan(value)


def _negated(op: Op) -> Replace:
    def negated(x: Expr, y: Expr) -> Expr | None:
        turns = x.op is Op.NEG and (is_const(y) or y.op is Op.NEG)
        return apply(FLIPPED[op], x.args[0], apply(Op.NEG, y)) if turns else None

    return negated


def _as_integers(op: Op) -> Replace:
    """float(i) against c, as ints: exact while |c| is at most 2 ** 24, whatever float(i) is rounded to."""

    def as_integers(x: Expr, y: Expr) -> Expr | None:
        c = number(y)
        if x.op is not Op.CAST or x.args[0].scalar is not Scalar.INDEX or c is None or not abs(c) <= EXACT - 1:
            return None
        if op in EQUALITIES:
            return apply(op, x.args[0], whole(int(c))) if c == int(c) else const(op is Op.NE)
        return apply(op, x.args[0], whole(math.floor(c) if op in (Op.LE, Op.GT) else math.ceil(c)))

    return as_integers


FLOAT_COMPARISONS: Final = rules_of(
    FLOAT,
    *_each("c ? x -> x ? c, turned", _flip),
    *_each("x ? x -> false", _itself_or_nan, (Op.LT, Op.GT)),
    *_each("x ? nan -> false", _with_nan),
    *_each("-x ? -y -> x ? y, turned", _negated),
    *_each("float(i) ? c -> i ? c, rounded", _as_integers),
)


def _of_two(op: Op) -> Replace:
    """A number that takes two constant values, by a Bool, against a constant."""

    def of_two(a: Expr, b: Expr) -> Expr | None:
        if not is_const(b) or is_const(a):
            return None
        if a.op is Op.CAST and a.args[0].scalar is Scalar.BOOL:
            choice, one, other = a.args[0], _unit(a, True), _unit(a, False)
        elif a.op is Op.WHERE and is_const(a.args[1]) and is_const(a.args[2]):
            choice, one, other = a.args
        else:
            return None
        first, second = apply(op, one, b), apply(op, other, b)
        if first is second:
            return first
        return choice if first is TRUE else invert(choice)

    return of_two


def _unit(expr: Expr, value: bool) -> Expr:
    return const(float(value)) if expr.scalar is Scalar.FLOAT else const(int(value))


def _both_bools(op: Op) -> Replace:
    def both_bools(a: Expr, b: Expr) -> Expr | None:
        casts = a.op is Op.CAST and b.op is Op.CAST
        if not casts or a.args[0].scalar is not Scalar.BOOL or b.args[0].scalar is not Scalar.BOOL:
            return None
        p, r = a.args[0], b.args[0]
        match op:
            case Op.LT | Op.GT:
                p, r = (p, r) if op is Op.LT else (r, p)
                return apply(Op.AND, invert(p), r)
            case Op.LE | Op.GE:
                p, r = (p, r) if op is Op.LE else (r, p)
                return either(invert(p), r)
            case _:
                return apply(op, p, r)

    return both_bools


def _equal_bool(p: Expr, r: Expr) -> Expr | None:
    if is_const(p) or is_const(r):
        fixed, other = (p, r) if is_const(p) else (r, p)
        return other if fixed is TRUE else invert(other)
    return TRUE if p is r else None


OF_BOOLS: Final = (
    *(rule for kind in (INDEX, FLOAT) for rule in rules_of(kind, *_each("int(p) ? c -> p or not p", _of_two))),
    *(rule for kind in (INDEX, FLOAT) for rule in rules_of(kind, *_each("int(p) ? int(r) -> of p, r", _both_bools))),
    *rules_of(
        BOOL,
        ("p == true -> p", Op.EQ, _equal_bool),
        ("p != r -> p ^ r", Op.NE, lambda p, r: apply(Op.XOR, p, r)),
    ),
)
COMPARISON_RULES: Final = (*INDEX_COMPARISONS, *FLOAT_COMPARISONS, *OF_BOOLS)

"""The algebra of Index expressions, which are exact integers. Constants come last, and gather at the outside."""

from __future__ import annotations

import math
from typing import Final

from attncc.ir import Expr, Op, apply
from attncc.passes.rules import (
    INDEX,
    ONE,
    ZERO,
    Row,
    absolute,
    add,
    floordiv,
    integer,
    is_const,
    mod,
    mul,
    neg,
    rules_of,
    split,
    sub,
    whole,
)

MINUS_ONE: Final = whole(-1)
COMMUTATIVE: Final = (Op.ADD, Op.MUL, Op.MIN, Op.MAX, Op.BIT_AND, Op.BIT_OR, Op.BIT_XOR)
EXTREMES: Final = (Op.MIN, Op.MAX)


def _swap(op: Op) -> Row:
    return f"{op.value}(c, i) -> {op.value}(i, c)", op, lambda i, j: _if(is_const(i) and not is_const(j), op, j, i)


def _if(condition: bool, op: Op, *args: Expr) -> Expr | None:
    return apply(op, *args) if condition else None


def _gather_sum(i: Expr, j: Expr) -> Expr | None:
    """(i + c) + j and i + (j + c), where j may be a constant."""
    if (left := split(i, Op.ADD)) is not None:
        return add(add(left[0], j), whole(left[1])) if not is_const(j) else add(left[0], add(whole(left[1]), j))
    if (right := split(j, Op.ADD)) is not None:
        return add(add(i, right[0]), whole(right[1]))
    return None


def _gather_difference(i: Expr, j: Expr) -> Expr | None:
    if (left := split(i, Op.ADD)) is not None:
        return add(sub(left[0], j), whole(left[1]))
    if (right := split(j, Op.ADD)) is not None:
        return add(sub(i, right[0]), whole(-right[1]))
    return None


def _cancel_sum(i: Expr, j: Expr) -> Expr | None:
    if i.op is Op.SUB and i.args[1] is j:
        return i.args[0]
    return j.args[0] if j.op is Op.SUB and j.args[1] is i else None


def _cancel_difference(i: Expr, j: Expr) -> Expr | None:
    if i.op is Op.ADD and j in i.args:
        return i.args[1] if i.args[0] is j else i.args[0]
    if j.op is Op.ADD and i in j.args:
        return neg(j.args[1] if j.args[0] is i else j.args[0])
    if i.op is Op.SUB and i.args[0] is j:
        return neg(i.args[1])
    return j.args[1] if j.op is Op.SUB and j.args[0] is i else None


def _collect(i: Expr, j: Expr) -> Expr | None:
    (a, c), (b, d) = _term(i), _term(j)
    return mul(a, whole(c + d)) if a is b and not is_const(a) else None


def _uncollect(i: Expr, j: Expr) -> Expr | None:
    (a, c), (b, d) = _term(i), _term(j)
    return mul(a, whole(c - d)) if a is b and not is_const(a) else None


def _term(expr: Expr) -> tuple[Expr, int]:
    return split(expr, Op.MUL) or (expr, 1)


def _divide_and_rest(i: Expr, j: Expr) -> Expr | None:
    """(i // c) * c + i % c, in either order."""
    for multiple, rest in ((i, j), (j, i)):
        product, remainder = split(multiple, Op.MUL), split(rest, Op.MOD)
        if product is not None and remainder is not None and product[1] == remainder[1]:
            quotient = split(product[0], Op.FLOORDIV)
            if quotient == remainder:
                return remainder[0]
    return None


def _rest(i: Expr, j: Expr) -> Expr | None:
    product = split(j, Op.MUL)
    quotient = None if product is None else split(product[0], Op.FLOORDIV)
    return mod(i, whole(quotient[1])) if product and quotient == (i, product[1]) else None


def _negate(i: Expr) -> Expr | None:
    if i.op is Op.SUB:
        return sub(i.args[1], i.args[0])
    if (product := split(i, Op.MUL)) is not None:
        return mul(product[0], whole(-product[1]))
    total = split(i, Op.ADD)
    return None if total is None else sub(whole(-total[1]), total[0])


SUMS: Final = rules_of(
    INDEX,
    ("i + 0 -> i", Op.ADD, lambda i, j: i if j is ZERO else None),
    ("(i + c) + j -> (i + j) + c", Op.ADD, _gather_sum),
    (
        "(c - i) + d -> (c + d) - i",
        Op.ADD,
        lambda i, j: (
            sub(add(i.args[0], j), i.args[1]) if i.op is Op.SUB and is_const(i.args[0]) and is_const(j) else None
        ),
    ),
    ("i + -j -> i - j", Op.ADD, lambda i, j: sub(i, j.args[0]) if j.op is Op.NEG else None),
    ("-i + j -> j - i", Op.ADD, lambda i, j: sub(j, i.args[0]) if i.op is Op.NEG else None),
    ("(i - j) + j -> i", Op.ADD, _cancel_sum),
    ("(i // c) * c + i % c -> i", Op.ADD, _divide_and_rest),
    ("i * c + i * d -> i * (c + d)", Op.ADD, _collect),
    ("i - i -> 0", Op.SUB, lambda i, j: ZERO if i is j else None),
    ("0 - i -> -i", Op.SUB, lambda i, j: neg(j) if i is ZERO else None),
    ("i - c -> i + -c", Op.SUB, lambda i, j: add(i, neg(j)) if is_const(j) else None),
    ("i - -j -> i + j", Op.SUB, lambda i, j: add(i, j.args[0]) if j.op is Op.NEG else None),
    ("(i + c) - j -> (i - j) + c", Op.SUB, _gather_difference),
    ("(i + j) - j -> i, i - (i + j) -> -j", Op.SUB, _cancel_difference),
    ("i - (i // c) * c -> i % c", Op.SUB, _rest),
    ("i * c - i * d -> i * (c - d)", Op.SUB, _uncollect),
    ("--i -> i", Op.NEG, lambda i: i.args[0] if i.op is Op.NEG else None),
    ("-(i - j) -> j - i", Op.NEG, _negate),
)


def _gather_product(i: Expr, j: Expr) -> Expr | None:
    """(i * c) * j and i * (j * c), where j may be a constant."""
    if (left := split(i, Op.MUL)) is not None:
        return mul(mul(left[0], j), whole(left[1])) if not is_const(j) else mul(left[0], mul(whole(left[1]), j))
    if (right := split(j, Op.MUL)) is not None:
        return mul(mul(i, right[0]), whole(right[1]))
    return None


def _distribute(i: Expr, j: Expr) -> Expr | None:
    total = split(i, Op.ADD)
    return None if total is None or not is_const(j) else add(mul(total[0], j), mul(whole(total[1]), j))


def _multiply_negated(i: Expr, j: Expr) -> Expr | None:
    if i.op is Op.NEG:
        return mul(i.args[0], neg(j)) if is_const(j) else neg(mul(i.args[0], j))
    return neg(mul(i, j.args[0])) if j.op is Op.NEG else None


def _divide_twice(i: Expr, j: Expr) -> Expr | None:
    inner, d = split(i, Op.FLOORDIV), integer(j)
    return floordiv(inner[0], whole(inner[1] * d)) if inner and d is not None and d > 0 else None


def _divide_product(i: Expr, j: Expr) -> Expr | None:
    product, d = split(i, Op.MUL), integer(j)
    if product is None or not d or (common := math.gcd(product[1], d)) == 1:
        return None
    return floordiv(mul(product[0], whole(product[1] // common)), whole(d // common))


def _divide_sum(i: Expr, j: Expr) -> Expr | None:
    """One term of the sum is a multiple of the divisor."""
    d = integer(j)
    if i.op not in (Op.ADD, Op.SUB) or not d:
        return None
    left, right = i.args
    if (part := _multiple(right, d)) is not None:
        return apply(i.op, floordiv(left, j), part)
    part = _multiple(left, d)
    if part is None:
        return None
    return add(part, floordiv(right if i.op is Op.ADD else neg(right), j))


def _multiple(expr: Expr, d: int) -> Expr | None:
    """The expression over d, where it is plainly a multiple of d."""
    if is_const(expr):
        value = integer(expr)
        return whole(value // d) if value is not None and value % d == 0 else None
    product = split(expr, Op.MUL)
    return mul(product[0], whole(product[1] // d)) if product and product[1] % d == 0 else None


def _divide_remainder(i: Expr, j: Expr) -> Expr | None:
    inner, d = split(i, Op.MOD), integer(j)
    return ZERO if inner and d and 0 < inner[1] <= d else None


def _rest_of_rest(i: Expr, j: Expr) -> Expr | None:
    inner, d = split(i, Op.MOD), integer(j)
    if inner is None or not d or d < 0 or inner[1] <= 0:
        return None
    if inner[1] <= d:
        return i
    return mod(inner[0], j) if inner[1] % d == 0 else None


def _rest_of_sum(i: Expr, j: Expr) -> Expr | None:
    """A multiple of the divisor does not change the remainder; a constant term is brought below the divisor."""
    d = integer(j)
    if not d:
        return None
    if _multiple(i, d) is not None:
        return ZERO
    if i.op not in (Op.ADD, Op.SUB):
        return None
    left, right = i.args
    if _multiple(right, d) is not None:
        return mod(left, j)
    if _multiple(left, d) is not None:
        return mod(right if i.op is Op.ADD else neg(right), j)
    c = integer(right) if i.op is Op.ADD else None
    return mod(add(left, whole(c % d)), j) if c is not None and c % d != c else None


PRODUCTS: Final = rules_of(
    INDEX,
    ("i * 0 -> 0", Op.MUL, lambda i, j: ZERO if j is ZERO else None),
    ("i * 1 -> i", Op.MUL, lambda i, j: i if j is ONE else None),
    ("i * -1 -> -i", Op.MUL, lambda i, j: neg(i) if j is MINUS_ONE else None),
    ("(i * c) * j -> (i * j) * c", Op.MUL, _gather_product),
    ("(i + c) * d -> i * d + c * d", Op.MUL, _distribute),
    ("-i * j -> -(i * j)", Op.MUL, _multiply_negated),
    ("i // 1 -> i", Op.FLOORDIV, lambda i, j: i if j is ONE else None),
    ("i // -1 -> -i", Op.FLOORDIV, lambda i, j: neg(i) if j is MINUS_ONE else None),
    ("(i // c) // d -> i // (c * d), d > 0", Op.FLOORDIV, _divide_twice),
    ("(i * c) // d -> (i * (c / g)) // (d / g), g = gcd(c, d)", Op.FLOORDIV, _divide_product),
    ("(i * (c * d) + j) // d -> i * c + j // d", Op.FLOORDIV, _divide_sum),
    ("(i % c) // d -> 0, 0 < c <= d", Op.FLOORDIV, _divide_remainder),
    ("i % 1 -> 0", Op.MOD, lambda i, j: ZERO if j in (ONE, MINUS_ONE) else None),
    ("(i % c) % d -> i % c, c <= d; i % d, d divides c", Op.MOD, _rest_of_rest),
    ("(i * (c * d) + j) % d -> j % d", Op.MOD, _rest_of_sum),
    ("i ** 0 -> 1", Op.POW, lambda i, j: ONE if j is ZERO else None),
    ("i ** 1 -> i", Op.POW, lambda i, j: i if j is ONE else None),
)


def _extreme_of_constants(op: Op, other: Op) -> Row:
    text = f"{op.value}({other.value}(i, c), d)"
    if op is other:
        return f"{text} -> {op.value}(i, {op.value}(c, d))", op, lambda i, j: _nested(op, i, j)
    return f"{text} -> d where c is beyond it", op, lambda i, j: _bounded(op, other, i, j)


def _nested(op: Op, i: Expr, j: Expr) -> Expr | None:
    return apply(op, i.args[0], apply(op, i.args[1], j)) if is_const(j) and split(i, op) else None


def _bounded(op: Op, other: Op, i: Expr, j: Expr) -> Expr | None:
    inner = split(i, other)
    return j if inner and is_const(j) and apply(op, whole(inner[1]), j) is j else None


def _shared_term(op: Op) -> Row:
    def shared(i: Expr, j: Expr) -> Expr | None:
        (a, c), (b, d) = split(i, Op.ADD) or (i, 0), split(j, Op.ADD) or (j, 0)
        return add(a, apply(op, whole(c), whole(d))) if a is b and not is_const(a) else None

    return f"{op.value}(i + c, i + d) -> i + {op.value}(c, d)", op, shared


def _absorb(op: Op, other: Op) -> Row:
    def absorb(i: Expr, j: Expr) -> Expr | None:
        if j.op is other and i in j.args:
            return i
        return j if i.op is other and j in i.args else None

    return f"{op.value}(i, {other.value}(i, j)) -> i", op, absorb


EXTREMA_AND_BITS: Final = rules_of(
    INDEX,
    *(_extreme_of_constants(op, other) for op in EXTREMES for other in EXTREMES),
    *(_shared_term(op) for op in EXTREMES),
    _absorb(Op.MIN, Op.MAX),
    _absorb(Op.MAX, Op.MIN),
    ("||i|| -> |i|", Op.ABS, lambda i: i if i.op is Op.ABS or _is_natural(i) else None),
    ("|-i| -> |i|", Op.ABS, lambda i: absolute(i.args[0]) if i.op is Op.NEG else None),
    (
        "|c - i| -> |i - c|",
        Op.ABS,
        lambda i: absolute(sub(*i.args[::-1])) if i.op is Op.SUB and is_const(i.args[0]) else None,
    ),
    ("i & i -> i", (Op.BIT_AND, Op.BIT_OR), lambda i, j: i if i is j else None),
    ("i & 0 -> 0", Op.BIT_AND, lambda i, j: ZERO if j is ZERO else None),
    ("i & -1 -> i", Op.BIT_AND, lambda i, j: i if j is MINUS_ONE else None),
    ("i | 0 -> i", (Op.BIT_OR, Op.BIT_XOR), lambda i, j: i if j is ZERO else None),
    ("i | -1 -> -1", Op.BIT_OR, lambda i, j: MINUS_ONE if j is MINUS_ONE else None),
    ("i ^ i -> 0", Op.BIT_XOR, lambda i, j: ZERO if i is j else None),
    ("i << c -> i * 2 ** c", Op.SHIFT_LEFT, lambda i, j: mul(i, whole(1 << (integer(j) or 0)))),
    ("i >> 0 -> i", Op.SHIFT_RIGHT, lambda i, j: i if j is ZERO else None),
)


def _is_natural(expr: Expr) -> bool:
    """Whether the expression is plainly at least 0."""
    remainder = split(expr, Op.MOD)
    return expr.op is Op.INPUT or (remainder is not None and remainder[1] > 0)


INTEGER_RULES: Final = (*rules_of(INDEX, *map(_swap, COMMUTATIVE)), *SUMS, *PRODUCTS, *EXTREMA_AND_BITS)

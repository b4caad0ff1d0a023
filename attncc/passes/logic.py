"""The algebra of Bools and of `where`. `not` moves inwards, to the comparisons; chains of `and` and `or` lean left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply, const
from attncc.passes.rules import (
    BOOL,
    COMPARISONS,
    FLIPPED,
    NEGATED,
    Replace,
    Row,
    both,
    either,
    integer,
    invert,
    is_const,
    rules_of,
    where,
)

#: How far back in a chain of `and` or `or` a term looks for one that it meets.
CHAIN: Final = 16

#: What the order of two operands can be for a comparison to hold; `?` is a NaN among them.
HOLDS: Final[Mapping[Op, str]] = {
    Op.LT: "<",
    Op.LE: "<=",
    Op.GT: ">",
    Op.GE: ">=",
    Op.EQ: "=",
    Op.NE: "<>?",
}


def _merge(first: Expr, second: Expr, op: Op) -> Expr | None:
    """Two comparisons of the same operands are one, or a constant."""
    if first.op not in HOLDS or second.op not in HOLDS or first.args[0].scalar is Scalar.BOOL:
        return None
    turned = second.args == first.args[::-1]
    if not turned and second.args != first.args:
        return None
    is_float = first.args[0].scalar is Scalar.FLOAT
    possible = frozenset("<=>?" if is_float else "<=>")
    one = possible & set(HOLDS[first.op])
    other = possible & set(HOLDS[FLIPPED[second.op] if turned else second.op])
    kept = {Op.AND: one & other, Op.OR: one | other, Op.XOR: one ^ other}[op]
    if not kept or kept == possible:
        return TRUE if kept else FALSE
    for candidate, holds in HOLDS.items():
        if possible & set(holds) == kept:
            return apply(candidate, *first.args)
    return None


def _merge_bounds(first: Expr, second: Expr, op: Op) -> Expr | None:
    """i < c and i < d, i < c and i >= d, and the like: the tighter one, or a constant where they contradict."""
    if first.op not in _BOUNDS or second.op not in _BOUNDS or first.args[0] is not second.args[0]:
        return None
    c, d = integer(first.args[1]), integer(second.args[1])
    if c is None or d is None:
        return None
    (up, c), (also_up, d) = _bound(first.op, c), _bound(second.op, d)
    if up == also_up:
        tighter = first if (c <= d) == up else second
        return tighter if op is Op.AND else (second if tighter is first else first)
    low, high = (d, c) if up else (c, d)  # low <= i, i <= high
    if op is Op.AND:
        return FALSE if low > high else None
    return TRUE if low <= high + 1 else None


_BOUNDS: Final = (Op.LT, Op.LE, Op.GT, Op.GE)


def _bound(op: Op, c: int) -> tuple[bool, int]:
    """Whether the comparison bounds from above, and the last int that it admits."""
    return op in (Op.LT, Op.LE), {Op.LT: c - 1, Op.LE: c, Op.GT: c + 1, Op.GE: c}[op]


Meet = Callable[[Expr, Expr, Op], Expr | None]


def _same(p: Expr, r: Expr, op: Op) -> Expr | None:
    return p if p is r else None


def _opposite(p: Expr, r: Expr, op: Op) -> Expr | None:
    return const(op is Op.OR) if _complements(p, r) else None


def _absorb(p: Expr, r: Expr, op: Op) -> Expr | None:
    for a, b in ((p, r), (r, p)):
        if b.op is _DUAL[op] and a in b.args:
            return a
    return None


def _shorten(p: Expr, r: Expr, op: Op) -> Expr | None:
    for a, b in ((p, r), (r, p)):
        for i in (0, 1) if b.op is _DUAL[op] else ():
            if _complements(a, b.args[i]):
                return apply(op, a, b.args[1 - i]) if a is p else apply(op, b.args[1 - i], a)
    return None


_DUAL: Final = {Op.AND: Op.OR, Op.OR: Op.AND}


def _complements(p: Expr, r: Expr) -> bool:
    return (p.op is Op.NOT and p.args[0] is r) or (r.op is Op.NOT and r.args[0] is p)


def _join(op: Op, meet: Meet) -> Replace:
    def join(p: Expr, r: Expr) -> Expr | None:
        """Simplify r with some earlier term of the chain that ends in p."""
        later: list[Expr] = []
        rest = p
        for _ in range(CHAIN):
            term, before = (rest.args[1], rest.args[0]) if rest.op is op else (rest, None)
            met = meet(term, r, op)
            if met is not None:
                for part in reversed(later):
                    before = part if before is None else apply(op, before, part)
                return met if before is None else apply(op, before, met)
            if before is None:
                return None
            later.append(term)
            rest = before
        return None

    return join


def _joins(text: str, meet: Meet) -> list[Row]:
    """A rule for terms of `and`, and its mirror image for `or`; `?` in the text stands for them."""
    return [(text.replace("?", op.value), op, _join(op, meet)) for op in (Op.AND, Op.OR)]


def _lean_left(op: Op) -> Replace:
    return lambda p, r: apply(op, apply(op, p, r.args[0]), r.args[1]) if r.op is op else None


def _with_constant(unit: Expr, absorbing: Expr) -> Replace:
    def with_constant(p: Expr, r: Expr) -> Expr | None:
        if absorbing in (p, r):
            return absorbing
        return r if p is unit else p if r is unit else None

    return with_constant


def _exclusive_constant(p: Expr, r: Expr) -> Expr | None:
    if not is_const(p) and not is_const(r):
        return None
    fixed, other = (p, r) if is_const(p) else (r, p)
    return invert(other) if fixed is TRUE else other


def _exclusive_negated(p: Expr, r: Expr) -> Expr | None:
    if p.op is Op.NOT:
        return invert(apply(Op.XOR, p.args[0], r))
    return invert(apply(Op.XOR, p, r.args[0])) if r.op is Op.NOT else None


def _de_morgan(p: Expr) -> Expr | None:
    return apply(_DUAL[p.op], *map(invert, p.args)) if p.op in _DUAL else None


def _negate_branches(p: Expr) -> Expr | None:
    return where(p.args[0], invert(p.args[1]), invert(p.args[2])) if p.op is Op.WHERE else None


def _negate_comparison(p: Expr) -> Expr | None:
    # Not the order of floats: where one is NaN, both i < j and i >= j are false.
    if p.op in COMPARISONS and p.args[0].scalar is Scalar.INDEX:
        return apply(NEGATED[p.op], *p.args)
    return apply(NEGATED[p.op], *p.args) if p.op in (Op.EQ, Op.NE) else None


LOGIC: Final = rules_of(
    BOOL,
    ("p and true -> p", Op.AND, _with_constant(TRUE, FALSE)),
    ("p or false -> p", Op.OR, _with_constant(FALSE, TRUE)),
    ("p and (r and t) -> (p and r) and t", Op.AND, _lean_left(Op.AND)),
    ("p or (r or t) -> (p or r) or t", Op.OR, _lean_left(Op.OR)),
    *_joins("p ? p -> p", _same),
    *_joins("p ? not p -> false; true for or", _opposite),
    *_joins("p ? (p or r) -> p", _absorb),
    *_joins("p ? (not p or r) -> p ? r", _shorten),
    *_joins("i < j ? i <= j -> i < j; i <= j for or", _merge),
    *_joins("i < c ? i < d -> i < min(c, d); max(c, d) for or", _merge_bounds),
    ("p ^ true -> not p", Op.XOR, _exclusive_constant),
    ("p ^ p -> false", Op.XOR, lambda p, r: FALSE if p is r else None),
    ("i < j ^ i <= j -> i == j", Op.XOR, lambda p, r: _merge(p, r, Op.XOR)),
    ("not p ^ r -> not (p ^ r)", Op.XOR, _exclusive_negated),
    ("not not p -> p", Op.NOT, lambda p: p.args[0] if p.op is Op.NOT else None),
    ("not (p and r) -> not p or not r", Op.NOT, _de_morgan),
    ("not (p ^ r) -> p == r", Op.NOT, lambda p: apply(Op.EQ, *p.args) if p.op is Op.XOR else None),
    ("not where(p, r, t) -> where(p, not r, not t)", Op.NOT, _negate_branches),
    ("not i < j -> i >= j", Op.NOT, _negate_comparison),
)


def _nested(p: Expr, a: Expr, b: Expr) -> Expr | None:
    if a.op is Op.WHERE and a.args[0] is p:
        return where(p, a.args[1], b)
    return where(p, a, b.args[2]) if b.op is Op.WHERE and b.args[0] is p else None


def _shared_branch(p: Expr, a: Expr, b: Expr) -> Expr | None:
    if a.op is Op.WHERE and a.args[2] is b:
        return where(both(p, a.args[0]), a.args[1], b)
    return where(either(p, b.args[0]), a, b.args[2]) if b.op is Op.WHERE and b.args[1] is a else None


def _of_bools(p: Expr, a: Expr, b: Expr) -> Expr | None:
    if a is TRUE:
        return either(p, b)
    if a is FALSE:
        return both(invert(p), b)
    if b is FALSE:
        return both(p, a)
    return either(invert(p), a) if b is TRUE else None


WHERE: Final = (
    *rules_of(
        None,
        ("where(true, a, b) -> a", Op.WHERE, lambda p, a, b: (a if p is TRUE else b) if is_const(p) else None),
        ("where(p, a, a) -> a", Op.WHERE, lambda p, a, b: a if a is b else None),
        (
            "where(not p, a, b) -> where(p, b, a)",
            Op.WHERE,
            lambda p, a, b: where(p.args[0], b, a) if p.op is Op.NOT else None,
        ),
        ("where(p, where(p, a, b), c) -> where(p, a, c)", Op.WHERE, _nested),
        ("where(p, where(r, a, b), b) -> where(p and r, a, b)", Op.WHERE, _shared_branch),
    ),
    *rules_of(BOOL, ("where(p, r, false) -> p and r", Op.WHERE, _of_bools)),
)
LOGIC_RULES: Final = (*LOGIC, *WHERE)

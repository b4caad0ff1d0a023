"""The algebra of Bools and of `where`. `not` moves inwards, to the comparisons; chains of `and` and `or` lean left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, apply
from attncc.passes.rules import (
    BOOL,
    COMPARISONS,
    FLIPPED,
    NEGATED,
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

# Two comparisons of the same operands ----------------------------------------------------------------------------

#: What the order of two operands can be for a comparison to hold; `?` is a NaN among them.
HOLDS: Final[Mapping[Op, str]] = {
    Op.LT: "<",
    Op.LE: "<=",
    Op.GT: ">",
    Op.GE: ">=",
    Op.EQ: "=",
    Op.NE: "<>?",
}
_BY_HOLDS: Final = {frozenset(holds): op for op, holds in HOLDS.items()}


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


# Terms of `and` and `or` -----------------------------------------------------------------------------------------


def _meet(p: Expr, r: Expr, op: Op) -> Expr | None:
    """The simpler form of `p op r`, where `op` is AND or OR."""
    other, absorbing = (Op.OR, FALSE) if op is Op.AND else (Op.AND, TRUE)
    if p is r:
        return p
    if _complements(p, r):
        return absorbing
    for a, b in ((p, r), (r, p)):
        if b.op is other and a in b.args:  # p and (p or r)
            return a
        if b.op is other:  # p and (not p or r)
            for i in (0, 1):
                if _complements(a, b.args[i]):
                    return apply(op, p, b.args[1 - i]) if a is p else apply(op, b.args[1 - i], r)
    return _merge(p, r, op) or _merge_bounds(p, r, op)


def _complements(p: Expr, r: Expr) -> bool:
    return (p.op is Op.NOT and p.args[0] is r) or (r.op is Op.NOT and r.args[0] is p)


def _join(op: Op) -> Callable[[Expr, Expr], Expr | None]:
    def join(p: Expr, r: Expr) -> Expr | None:
        """Simplify r with some earlier term of the chain that ends in p."""
        later: list[Expr] = []
        rest = p
        for _ in range(CHAIN):
            term, before = (rest.args[1], rest.args[0]) if rest.op is op else (rest, None)
            met = _meet(term, r, op)
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


def _lean_left(op: Op) -> Callable[[Expr, Expr], Expr | None]:
    return lambda p, r: apply(op, apply(op, p, r.args[0]), r.args[1]) if r.op is op else None


def _with_constant(unit: Expr, absorbing: Expr) -> Callable[[Expr, Expr], Expr | None]:
    def with_constant(p: Expr, r: Expr) -> Expr | None:
        if absorbing in (p, r):
            return absorbing
        return r if p is unit else p if r is unit else None

    return with_constant


def _exclusive(p: Expr, r: Expr) -> Expr | None:
    if is_const(p) or is_const(r):
        fixed, other = (p, r) if is_const(p) else (r, p)
        return invert(other) if fixed is TRUE else other
    if p is r:
        return FALSE
    return TRUE if _complements(p, r) else _merge(p, r, Op.XOR)


def _exclusive_negated(p: Expr, r: Expr) -> Expr | None:
    if p.op is Op.NOT:
        return invert(apply(Op.XOR, p.args[0], r))
    return invert(apply(Op.XOR, p, r.args[0])) if r.op is Op.NOT else None


def _negate(p: Expr) -> Expr | None:
    match p.op:
        case Op.NOT:
            return p.args[0]
        case Op.AND | Op.OR:
            return (either if p.op is Op.AND else both)(*map(invert, p.args))
        case Op.WHERE:
            return where(p.args[0], invert(p.args[1]), invert(p.args[2]))
        case Op.XOR:
            return apply(Op.EQ, *p.args)
        case Op.EQ | Op.NE if p.args[0].scalar is not Scalar.INDEX:
            return apply(Op.XOR if p.args[0].scalar is Scalar.BOOL else NEGATED[p.op], *p.args)
        case _ if p.op in COMPARISONS and p.args[0].scalar is Scalar.INDEX:
            return apply(NEGATED[p.op], *p.args)
    return None


LOGIC: Final = rules_of(
    BOOL,
    ("p and true -> p", Op.AND, _with_constant(TRUE, FALSE)),
    ("p or false -> p", Op.OR, _with_constant(FALSE, TRUE)),
    ("p and (r and t) -> (p and r) and t", Op.AND, _lean_left(Op.AND)),
    ("p or (r or t) -> (p or r) or t", Op.OR, _lean_left(Op.OR)),
    ("p and not p -> false, p and (p or r) -> p, i < c and i < d -> i < min(c, d), …", Op.AND, _join(Op.AND)),
    ("p or not p -> true, p or (p and r) -> p, i < j or i == j -> i <= j, …", Op.OR, _join(Op.OR)),
    ("p ^ p -> false", Op.XOR, _exclusive),
    ("not p ^ r -> not (p ^ r)", Op.XOR, _exclusive_negated),
    ("not not p -> p, not (p and r) -> not p or not r, not i < j -> i >= j, …", Op.NOT, _negate),
)

# Where -----------------------------------------------------------------------------------------------------------


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

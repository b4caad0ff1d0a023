"""Random expressions over the whole language, drawn together with bounds of their values.

A `Draft` makes terms of each kind from choices that somebody else takes (a seed, or hypothesis), and remembers what it
captured on the way. Integers stay far from 64 bits, divisors from zero, indices inside their tensor, and functions
where their values are moderate; few draws leave this path on purpose (`_wild`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attncc.errors import LanguageError
from attncc.ir import (
    BATCH,
    FALSE,
    HEADS,
    KV_IDX,
    KV_LEN,
    NEG_INF,
    Q_IDX,
    Q_LEN,
    SCORE,
    TRUE,
    B,
    Capture,
    Expr,
    H,
    Op,
    Parameter,
    Scalar,
    apply,
    cast,
    conjunction,
    const,
    load,
    narrow,
    param,
)

MAX_LEN = 128
MAX_BATCH = 3
MAX_HEADS = 8
MAX_INDEX = 1 << 20
MAX_FLOAT = 1000.0
MAX_SCORE = 60.0

#: Chooses one of n: from 0 to n - 1; 0 is the simplest.
Choose = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Term:
    """An expression with bounds of its values; those of a Float hold for usual tensors only."""

    expr: Expr
    lo: float
    hi: float

    @property
    def size(self) -> float:
        """The largest magnitude."""
        return max(abs(self.lo), abs(self.hi))


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """How a captured tensor is made: `sizes` are expressions of the sizes of a problem, values lie in [lo, hi]."""

    capture: Capture
    sizes: tuple[Expr, ...]
    lo: float
    hi: float


PLAIN: tuple[tuple[Expr, str], ...] = ((H, "heads"), (KV_IDX, "kv_len"), (Q_IDX, "q_len"), (B, "batch"))
SIZE_OF = {"heads": HEADS, "kv_len": KV_LEN, "q_len": Q_LEN, "batch": BATCH}
INDEX_LEAVES = (
    Term(Q_IDX, 0, MAX_LEN - 1),
    Term(KV_IDX, 0, MAX_LEN - 1),
    Term(apply(Op.SUB, Q_IDX, KV_IDX), 1 - MAX_LEN, MAX_LEN - 1),
    Term(H, 0, MAX_HEADS - 1),
    Term(B, 0, MAX_BATCH - 1),
    Term(Q_LEN, 1, MAX_LEN),
    Term(KV_LEN, 1, MAX_LEN),
    Term(HEADS, 1, MAX_HEADS),
    Term(BATCH, 1, MAX_BATCH),
)
FLOAT_CONSTANTS = (0.5, 1.0, -1.0, 2.0, 0.125, -0.3, 0.1, 3.0, 0.0, -0.0, 7.5)
SMOOTH = (Op.TANH, Op.SIGMOID, Op.SIN, Op.COS, Op.ATAN, Op.ERF)
ROUNDINGS = (Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC)
COMPARISONS = (Op.GE, Op.LT, Op.LE, Op.GT, Op.EQ, Op.NE)


class Draft:
    """A spec in the making: what has been captured so far, and the terms that may be used again."""

    def __init__(self, choose: Choose, *, with_score: bool = True) -> None:
        self.choose = choose
        self.with_score = with_score
        self.plans: list[CapturePlan] = []
        self.parameters: list[Parameter] = []
        self.guards: list[Expr] = []
        self.made: dict[Scalar, list[Term]] = {kind: [] for kind in Scalar}

    def chance(self, percent: int) -> bool:
        """True in about so many of a hundred draws; shrinks to False."""
        return self.choose(100) >= 100 - percent

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of the choices; shrinks to the first."""
        return choices[self.choose(len(choices))]

    def term(self, kind: Scalar, depth: int) -> Term:
        """A term of this kind: a leaf at depth 0, now and then one that was made before."""
        if self.made[kind] and self.chance(15):
            return self.pick(self.made[kind])
        makers = _LEAVES[kind] if depth <= 0 else _MAKERS[kind]
        try:
            made: Term = self.pick(makers)(self, depth - 1)
        except LanguageError:  # constants that have no meaning together, such as int(nan)
            made = self.pick(_LEAVES[kind])(self, 0)
        self.made[kind].append(made)
        return made

    def index(self, depth: int) -> Term:
        """An Index term."""
        return self.term(Scalar.INDEX, depth)

    def float(self, depth: int) -> Term:
        """A Float term."""
        return self.term(Scalar.FLOAT, depth)

    def bool(self, depth: int) -> Term:
        """A Bool term."""
        return self.term(Scalar.BOOL, depth)


def _index_leaf(draft: Draft, depth: int) -> Term:
    return draft.pick(INDEX_LEAVES)


def _index_constant(draft: Draft, depth: int) -> Term:
    value = draft.pick((0, 1, 2, 3, 4, 7, 16, 33, -1, -5, 100))
    return Term(const(value), value, value)


def _parameter(draft: Draft, depth: int) -> Term:
    if len(draft.parameters) < 2 and draft.chance(60):
        draft.parameters.append(Parameter(f"width{len(draft.parameters)}", draft.pick((1, 4, 16, 37))))
    if not draft.parameters:
        return _index_constant(draft, depth)
    return Term(param(draft.pick(draft.parameters).name), 1, MAX_LEN)


def _index_sum(draft: Draft, depth: int) -> Term:
    a, b = draft.index(depth), draft.index(depth)
    if draft.chance(50):
        return _small(apply(Op.ADD, a.expr, b.expr), a.lo + b.lo, a.hi + b.hi)
    return _small(apply(Op.SUB, a.expr, b.expr), a.lo - b.hi, a.hi - b.lo)


def _index_product(draft: Draft, depth: int) -> Term:
    a, b = draft.index(depth), draft.index(depth)
    return _small(apply(Op.MUL, a.expr, b.expr), *_corners(a, b))


def _index_division(draft: Draft, depth: int) -> Term:
    a, b = draft.index(depth), _divisor(draft, depth)
    if draft.chance(50):
        return Term(apply(Op.MOD, a.expr, b.expr), min(0, b.lo + 1), max(0, b.hi - 1))
    return Term(apply(Op.FLOORDIV, a.expr, b.expr), -a.size - 1, a.size + 1)


def _divisor(draft: Draft, depth: int) -> Term:
    """An Index term that is nowhere 0."""
    if draft.chance(60):
        value = draft.pick((2, 3, 4, 8, 16, 64, 1, -1, -3))
        return Term(const(value), value, value)
    term = _parameter(draft, depth) if draft.chance(40) else draft.index(depth)
    if term.lo >= 1 or term.hi <= -1:
        return term
    return Term(apply(Op.MAX, term.expr, const(1)), 1, max(1, term.hi))


def _index_extreme(draft: Draft, depth: int) -> Term:
    a, b = draft.index(depth), draft.index(depth)
    if draft.chance(50):
        return Term(apply(Op.MIN, a.expr, b.expr), min(a.lo, b.lo), min(a.hi, b.hi))
    return Term(apply(Op.MAX, a.expr, b.expr), max(a.lo, b.lo), max(a.hi, b.hi))


def _index_sign(draft: Draft, depth: int) -> Term:
    a = draft.index(depth)
    if draft.chance(50):
        return Term(apply(Op.ABS, a.expr), 0, a.size)
    return Term(apply(Op.NEG, a.expr), -a.hi, -a.lo)


def _index_bits(draft: Draft, depth: int) -> Term:
    a = draft.index(depth)
    choice = draft.pick(("and", "or", "xor", "right", "left", "power"))
    match choice:
        case "left":
            return _small(apply(Op.SHIFT_LEFT, a.expr, const(draft.pick((1, 2, 3)))), min(a.lo * 8, 0), a.size * 8)
        case "right":
            return Term(apply(Op.SHIFT_RIGHT, a.expr, const(draft.pick((1, 2, 5)))), min(a.lo, 0), max(a.hi, 0))
        case "power":
            return _small(apply(Op.POW, a.expr, const(draft.pick((2, 0, 1, 3)))), -(a.size**3) - 1, a.size**3 + 1)
        case _:
            b = draft.index(depth)
            op = {"and": Op.BIT_AND, "or": Op.BIT_OR, "xor": Op.BIT_XOR}[choice]
            size = 1 << int(max(a.size, b.size)).bit_length()
            return Term(apply(op, a.expr, b.expr), 0 if min(a.lo, b.lo) >= 0 else -size, size - 1)


def _index_choice(draft: Draft, depth: int) -> Term:
    c, a, b = draft.bool(depth), draft.index(depth), draft.index(depth)
    return Term(apply(Op.WHERE, c.expr, a.expr, b.expr), min(a.lo, b.lo), max(a.hi, b.hi))


def _index_conversion(draft: Draft, depth: int) -> Term:
    if draft.chance(50):
        return Term(cast(draft.bool(depth).expr, Scalar.INDEX), 0, 1)
    a = draft.float(depth)
    return Term(cast(a.expr, Scalar.INDEX), math.floor(a.lo), math.ceil(a.hi))


def _index_load(draft: Draft, depth: int) -> Term:
    hi = draft.pick((1, 3, 15, MAX_LEN - 1))
    return _load(draft, depth, Scalar.INDEX, -2 if draft.chance(20) else 0, hi)


def _small(expr: Expr, lo: float, hi: float) -> Term:
    """The term, or its remainder by 1009 where it could grow beyond `MAX_INDEX`."""
    if max(abs(lo), abs(hi)) <= MAX_INDEX:
        return Term(expr, lo, hi)
    return Term(apply(Op.MOD, expr, const(1009)), 0, 1008)


def _corners(a: Term, b: Term) -> tuple[float, float]:
    products = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return min(products), max(products)


def _load(draft: Draft, depth: int, kind: Scalar, lo: float, hi: float) -> Term:
    """An element of a captured tensor of rank 0 to 4; one that was captured before is often read again."""
    same = [plan for plan in draft.plans if plan.capture.scalar is kind]
    if same and draft.chance(25):
        return _load_again(draft, draft.pick(same))
    rank = draft.pick((1, 1, 2, 1, 0, 2, 3, 4))
    places = [_place(draft, depth) for _ in range(rank)]
    if draft.chance(10) and rank in (1, 2):
        places = [(expr, dim, SIZE_OF[dim]) for expr, dim in (PLAIN[2], PLAIN[1])]
    name = f"{('flags', 'table', 'bias')[kind]}{len(draft.plans)}"
    capture = Capture(name, kind, tuple(dim for _, dim, _ in places))
    draft.plans.append(CapturePlan(capture, tuple(size for _, _, size in places), lo, hi))
    return Term(load(name, kind, *(index for index, _, _ in places)), lo, hi)


def _load_again(draft: Draft, plan: CapturePlan) -> Term:
    """The same tensor at other places that its dimensions are known to hold."""
    index = [_within(draft, dim, size) for dim, size in zip(plan.capture.dims, plan.sizes, strict=True)]
    return Term(load(plan.capture.name, plan.capture.scalar, *index), plan.lo, plan.hi)


def _within(draft: Draft, dim: str | int, size: Expr) -> Expr:
    for expr, name in PLAIN:
        if dim == name and draft.chance(50):
            return expr
    limit = const(dim) if isinstance(dim, int) else size
    return apply(Op.MOD, draft.index(1).expr, limit)


def _place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """An index, the dimension that it indexes, and the size of that dimension as an expression."""
    return draft.pick(_PLACES)(draft, depth)


def _plain_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    index, dim = draft.pick(PLAIN)
    return index, dim, SIZE_OF[dim]


def _wrapped_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """An index in [-n, -1], which counts from the end."""
    index, dim = draft.pick(PLAIN)
    size = SIZE_OF[dim]
    expr = apply(Op.SUB, index, size) if draft.chance(50) else apply(Op.SUB, const(-1), index)
    return expr, dim, size


def _diagonal_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """q_idx - kv_idx, moved so that it starts at 0; the tensor has one element per diagonal."""
    index = apply(Op.SUB, apply(Op.ADD, apply(Op.SUB, Q_IDX, KV_IDX), KV_LEN), const(1))
    return index, "_", apply(Op.SUB, apply(Op.ADD, Q_LEN, KV_LEN), const(1))


def _clipped_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """A distance clipped to [-reach, reach]."""
    reach = draft.pick((1, 4, 16))
    distance = draft.index(depth) if draft.chance(40) else INDEX_LEAVES[2]
    clipped = apply(Op.MIN, apply(Op.MAX, distance.expr, const(-reach)), const(reach))
    return apply(Op.ADD, clipped, const(reach)), 2 * reach + 1, const(2 * reach + 1)


def _modular_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    size = draft.pick((1, 2, 5, 16))
    return apply(Op.MOD, draft.index(depth).expr, const(size)), size, const(size)


def _block_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """A position divided by a block size; as many elements as blocks."""
    position, length = draft.pick(((Q_IDX, Q_LEN), (KV_IDX, KV_LEN)))
    block = const(draft.pick((2, 16, 7)))
    size = apply(Op.FLOORDIV, apply(Op.SUB, apply(Op.ADD, length, block), const(1)), block)
    return apply(Op.FLOORDIV, position, block), "_", size


def _gathered_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """An element of an integer tensor."""
    size = draft.pick((2, 8, MAX_LEN))
    if depth <= 0:
        return _plain_place(draft, depth)
    inner = _load(draft, depth - 1, Scalar.INDEX, 0, size - 1)
    if inner.lo < -size or inner.hi >= size:
        return apply(Op.MOD, inner.expr, const(size)), size, const(size)
    return inner.expr, size, const(size)


def _loose_place(draft: Draft, depth: int) -> tuple[Expr, str | int, Expr]:
    """An index that leaves its tensor at pairs which the mask then hides."""
    index = draft.index(depth).expr if draft.chance(50) else INDEX_LEAVES[2].expr
    if SCORE in below(index):  # what hides the pair is part of the mask
        index = INDEX_LEAVES[2].expr
    size = draft.pick((MAX_LEN, 33, 8))
    draft.guards.append(
        conjunction(apply(Op.GE, index, const(-size if draft.chance(30) else 0)), apply(Op.LT, index, const(size)))
    )
    return index, size, const(size)


_PLACES = (
    _plain_place,
    _plain_place,
    _plain_place,
    _plain_place,
    _clipped_place,
    _diagonal_place,
    _modular_place,
    _block_place,
    _gathered_place,
    _wrapped_place,
    _loose_place,
)


def _score(draft: Draft, depth: int) -> Term:
    return Term(SCORE, -6, 6) if draft.with_score else _float_load(draft, depth)


def _float_constant(draft: Draft, depth: int) -> Term:
    value = draft.pick(FLOAT_CONSTANTS)
    return Term(const(value), value, value)


def _float_load(draft: Draft, depth: int) -> Term:
    return _load(draft, depth, Scalar.FLOAT, *draft.pick(((-1.0, 1.0), (0.25, 2.0), (-3.0, 0.5))))


def _float_conversion(draft: Draft, depth: int) -> Term:
    if draft.chance(30):
        return Term(cast(draft.bool(depth).expr, Scalar.FLOAT), 0, 1)
    a = draft.index(depth)
    return _shrunk(Term(cast(a.expr, Scalar.FLOAT), a.lo, a.hi), 64.0)


def _float_sum(draft: Draft, depth: int) -> Term:
    a, b = draft.float(depth), draft.float(depth)
    if draft.chance(50):
        return _shrunk(Term(apply(Op.SUB, a.expr, b.expr), a.lo - b.hi, a.hi - b.lo))
    return _shrunk(Term(apply(Op.ADD, a.expr, b.expr), a.lo + b.lo, a.hi + b.hi))


def _float_product(draft: Draft, depth: int) -> Term:
    a, b = draft.float(depth), draft.float(depth)
    return _shrunk(Term(apply(Op.MUL, a.expr, b.expr), *_corners(a, b)))


def _float_quotient(draft: Draft, depth: int) -> Term:
    a, b = draft.float(depth), _positive(draft.float(depth))
    return _shrunk(Term(apply(Op.DIV, a.expr, b.expr), -a.size / b.lo, a.size / b.lo))


def _float_remainder(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    value = draft.pick((0.75, 2.0, -1.5))
    b = Term(const(value), value, value) if draft.chance(60) else _positive(draft.float(depth))
    if draft.chance(60):
        return Term(apply(Op.MOD, a.expr, b.expr), -b.size, b.size)
    least = min(abs(b.lo), abs(b.hi))
    return _shrunk(Term(apply(Op.FLOORDIV, a.expr, b.expr), -a.size / least - 1, a.size / least + 1))


def _float_power(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    if draft.chance(50):
        a = _shrunk(a, 9.0)
        return Term(apply(Op.POW, a.expr, const(draft.pick((2.0, 3.0, 1.0, 0.0)))), -(a.size**3) - 1, a.size**3 + 1)
    a = _positive(_shrunk(a, 20.0))
    exponent = draft.pick((0.5, -1.0, 1.5, -0.5)) if draft.chance(60) else None
    b = Term(const(exponent), exponent, exponent) if exponent is not None else _shrunk(draft.float(depth), 2.0)
    return _shrunk(Term(apply(Op.POW, a.expr, b.expr), 0, max(a.hi, 1 / a.lo) ** b.size))


def _float_extreme(draft: Draft, depth: int) -> Term:
    a, b = draft.float(depth), draft.float(depth)
    if draft.chance(50):
        return Term(apply(Op.MIN, a.expr, b.expr), min(a.lo, b.lo), min(a.hi, b.hi))
    return Term(apply(Op.MAX, a.expr, b.expr), max(a.lo, b.lo), max(a.hi, b.hi))


def _float_sign(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    if draft.chance(50):
        return Term(apply(Op.ABS, a.expr), 0, a.size)
    return Term(apply(Op.NEG, a.expr), -a.hi, -a.lo)


def _smooth(draft: Draft, depth: int) -> Term:
    return Term(apply(draft.pick(SMOOTH), draft.float(depth).expr), -1.6, 1.6)


def _exponential(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    if a.hi > 5.0:
        a = Term(apply(Op.MIN, a.expr, const(3.0)), a.lo, 3.0)
    return Term(apply(draft.pick((Op.EXP, Op.EXP2, Op.EXPM1)), a.expr), -1.0, math.exp(a.hi))


def _logarithm(draft: Draft, depth: int) -> Term:
    a = _positive(draft.float(depth))
    op = draft.pick((Op.LOG, Op.SQRT, Op.LOG2, Op.LOG1P, Op.RSQRT))
    size = {Op.SQRT: math.sqrt(a.hi), Op.RSQRT: 1.5}.get(op, 2 + math.log2(max(a.hi, 1)))
    return Term(apply(op, a.expr), 0.25 if op in (Op.SQRT, Op.RSQRT) and a.hi < 16 else -size, size)


def _rounding(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    return Term(apply(draft.pick(ROUNDINGS), a.expr), a.lo - 1, a.hi + 1)


def _narrowing(draft: Draft, depth: int) -> Term:
    a = draft.float(depth)
    return Term(narrow(a.expr, draft.pick(("bfloat16", "float16"))), a.lo - 0.01 * a.size, a.hi + 0.01 * a.size)


def _float_choice(draft: Draft, depth: int) -> Term:
    c, a, b = draft.bool(depth), draft.float(depth), draft.float(depth)
    return Term(apply(Op.WHERE, c.expr, a.expr, b.expr), min(a.lo, b.lo), max(a.hi, b.hi))


def _guarded_choice(draft: Draft, depth: int) -> Term:
    """A function outside its domain in the branch that is not chosen, as in where(x > 0, log(x), x)."""
    a, b = draft.float(depth), draft.float(depth)
    op = draft.pick((Op.LOG, Op.SQRT, Op.RSQRT, Op.LOG2))
    inside = apply(Op.GT, a.expr, const(0.0625))
    size = max(4.0, math.log2(max(a.size, 1)) + 1, math.sqrt(a.size))
    return Term(apply(Op.WHERE, inside, apply(op, a.expr), b.expr), min(-size, b.lo), max(size, b.hi))


def _wild(draft: Draft, depth: int) -> Term:
    """An operation without regard to its domain, in one of eight draws of this row."""
    if not draft.chance(12):
        return _smooth(draft, depth)
    a, b = draft.float(depth), draft.float(depth)
    op = draft.pick((Op.LOG, Op.SQRT, Op.RSQRT, Op.DIV, Op.MOD, Op.POW, Op.EXP))
    expr = apply(op, a.expr, b.expr) if op in (Op.DIV, Op.MOD, Op.POW) else apply(op, a.expr)
    return Term(expr, -MAX_FLOAT, MAX_FLOAT)


def _positive(a: Term) -> Term:
    """The term, or its magnitude plus a half, so that it stays away from 0."""
    if a.lo >= 0.25:
        return a
    return Term(apply(Op.ADD, apply(Op.ABS, a.expr), const(0.5)), 0.5, a.size + 0.5)


def _shrunk(a: Term, limit: float = MAX_FLOAT) -> Term:
    """The term, or a fraction of it that stays within the limit."""
    if a.size <= limit:
        return a
    factor = 2.0 ** math.floor(math.log2(limit / a.size))
    return Term(apply(Op.MUL, a.expr, const(factor)), a.lo * factor, a.hi * factor)


def _causal(draft: Draft, depth: int) -> Term:
    return Term(apply(Op.GE, Q_IDX, KV_IDX), 0, 1)


def _bool_constant(draft: Draft, depth: int) -> Term:
    return Term(draft.pick((TRUE, FALSE)), 0, 1)


def _window(draft: Draft, depth: int) -> Term:
    return Term(apply(Op.LT, apply(Op.SUB, Q_IDX, KV_IDX), _parameter(draft, depth).expr), 0, 1)


def _same_document(draft: Draft, depth: int) -> Term:
    name = f"document{len(draft.plans)}"
    length = apply(Op.MAX, Q_LEN, KV_LEN)
    draft.plans.append(CapturePlan(Capture(name, Scalar.INDEX, ("_",)), (length,), 0, 3))
    return Term(apply(Op.EQ, *(load(name, Scalar.INDEX, index) for index in (Q_IDX, KV_IDX))), 0, 1)


def _index_comparison(draft: Draft, depth: int) -> Term:
    return Term(apply(draft.pick(COMPARISONS), draft.index(depth).expr, draft.index(depth).expr), 0, 1)


def _float_comparison(draft: Draft, depth: int) -> Term:
    return Term(apply(draft.pick(COMPARISONS), draft.float(depth).expr, draft.float(depth).expr), 0, 1)


def _logic(draft: Draft, depth: int) -> Term:
    op = draft.pick((Op.AND, Op.OR, Op.XOR, Op.EQ, Op.NE))
    return Term(apply(op, draft.bool(depth).expr, draft.bool(depth).expr), 0, 1)


def _negation(draft: Draft, depth: int) -> Term:
    return Term(apply(Op.NOT, draft.bool(depth).expr), 0, 1)


def _bool_choice(draft: Draft, depth: int) -> Term:
    return Term(apply(Op.WHERE, *(draft.bool(depth).expr for _ in range(3))), 0, 1)


def _bool_load(draft: Draft, depth: int) -> Term:
    return _load(draft, depth, Scalar.BOOL, 0, 1)


_LEAVES: dict[Scalar, tuple[Callable[[Draft, int], Term], ...]] = {
    Scalar.INDEX: (_index_leaf, _index_leaf, _index_leaf, _index_constant, _parameter),
    Scalar.FLOAT: (_score, _score, _float_constant, _float_load, _float_conversion),
    Scalar.BOOL: (_causal, _index_comparison, _window, _same_document, _bool_load),
}
_MAKERS: dict[Scalar, tuple[Callable[[Draft, int], Term], ...]] = {
    Scalar.INDEX: (
        *_LEAVES[Scalar.INDEX],
        _index_sum,
        _index_sum,
        _index_sum,
        _index_product,
        _index_division,
        _index_division,
        _index_extreme,
        _index_sign,
        _index_bits,
        _index_choice,
        _index_conversion,
        _index_load,
        _index_load,
    ),
    Scalar.FLOAT: (
        _score,
        _float_load,
        _float_load,
        _float_conversion,
        _float_constant,
        _float_sum,
        _float_sum,
        _float_sum,
        _float_product,
        _float_product,
        _float_product,
        _float_quotient,
        _float_remainder,
        _float_power,
        _float_extreme,
        _float_sign,
        _smooth,
        _smooth,
        _exponential,
        _logarithm,
        _rounding,
        _narrowing,
        _float_choice,
        _float_choice,
        _guarded_choice,
        _wild,
    ),
    Scalar.BOOL: (
        _causal,
        _window,
        _index_comparison,
        _index_comparison,
        _index_comparison,
        _logic,
        _logic,
        _logic,
        _logic,
        _same_document,
        _negation,
        _bool_choice,
        _float_comparison,
        _bool_load,
        _bool_constant,
    ),
}


def draw_score(draft: Draft) -> Expr:
    depth = draft.pick((0, 1, 2, 3, 4, 5, 4, 5))
    if depth == 0:
        return SCORE
    made = draft.float(depth)
    if SCORE not in below(made.expr) and draft.chance(90):
        made = Term(apply(draft.pick((Op.ADD, Op.MUL)), SCORE, _shrunk(made, 8.0).expr), -MAX_FLOAT, MAX_FLOAT)
    made = _shrunk(made, MAX_SCORE)
    if draft.chance(25):
        hidden = const(-1e9) if draft.chance(15) else NEG_INF
        branches = (made.expr, hidden) if draft.chance(75) else (hidden, made.expr)
        made = replace(made, expr=apply(Op.WHERE, draft.bool(1).expr, *branches))
        if draft.chance(30):
            made = replace(made, expr=apply(Op.ADD, made.expr, _shrunk(draft.float(1), 8.0).expr))
    return made.expr


def below(root: Expr) -> set[Expr]:
    seen, stack = set(), [root]
    while stack:
        expr = stack.pop()
        if expr not in seen:
            seen.add(expr)
            stack.extend(expr.args)
    return seen


def draw_mask(draft: Draft) -> Expr:
    draft.with_score = False
    draft.made = {kind: [t for t in terms if SCORE not in below(t.expr)] for kind, terms in draft.made.items()}
    depth = draft.pick((None, 0, 1, 2, 3, 4, 3, 4))
    return TRUE if depth is None else draft.bool(depth).expr

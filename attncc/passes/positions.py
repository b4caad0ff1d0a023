"""One spelling of a comparison of positions with what is the same for the whole mask.

`q_idx < kv_idx + w`, `q_idx - w < kv_idx`, `kv_idx - q_idx > -w` and `q_idx - kv_idx <= w - 1` become
`q_idx - kv_idx < w`: the positions on the left, which cannot overflow there, and on the right one term or a number.
Against numbers `<` and `>=` are enough. What would need a sum on the right is left as it is written.
"""

from __future__ import annotations

from typing import Final

from attncc.ir import KV_IDX, Q_IDX, Expr, Op, Scalar, apply, const, postorder

_FLIPPED: Final = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE, Op.EQ: Op.EQ, Op.NE: Op.NE}
#: What x OP y + 1, or x OP y - 1, is as a comparison of x and y.
_ABOVE: Final = {Op.LT: Op.LE, Op.GE: Op.GT}
_BELOW: Final = {Op.LE: Op.LT, Op.GT: Op.GE}
#: Numbers beyond this are left alone: one more would not fit into 32 bits.
LARGEST: Final = 2**31 - 2


def spelled(comparison: Expr) -> Expr:
    """The comparison in its one spelling, or as it is."""
    left, right = comparison.args
    if left.scalar is not Scalar.INDEX or comparison.op not in _FLIPPED:
        return comparison
    if left.op is Op.CONST and right.op is not Op.CONST:
        return spelled(apply(_FLIPPED[comparison.op], right, left))
    if right.op is Op.CONST and not {Q_IDX, KV_IDX} & set(_summands(left)):
        return _of_number(comparison.op, left, right)
    terms, constant = _sum(left, right)
    positions = [p for p in (Q_IDX, KV_IDX) if p in terms]
    others = [term for term in terms if term not in positions]
    if not positions or len(others) > 1 or any(abs(count) != 1 for count in terms.values()) or _reads(others):
        return comparison
    turn = terms[positions[0]]
    if len(positions) == 2 and terms[Q_IDX] == terms[KV_IDX]:
        return comparison
    if others and len(positions) == 2:
        turn = -terms[others[0]]  # the term stands on the right, with its sign
    op = comparison.op if turn > 0 else _FLIPPED[comparison.op]
    plus = next(p for p in positions if terms[p] == turn)
    minus = [p for p in positions if p is not plus]
    if others and terms[others[0]] == turn:
        return comparison
    return _made(comparison, op, (plus, *minus), others, -constant * turn)


def _made(comparison: Expr, op: Op, positions: tuple[Expr, ...], others: list[Expr], constant: int) -> Expr:
    """positions[0] - positions[1] `op` other + constant, without the constant."""
    if abs(constant) > LARGEST:
        return comparison
    if not others and len(positions) == 2 and (constant < 0 or (constant == 0 and positions[0] is KV_IDX)):
        positions, op, constant = positions[::-1], _FLIPPED[op], -constant
    distance = positions[0] if len(positions) == 1 else apply(Op.SUB, *positions)
    if not others:
        made = _of_number(op, distance, const(constant))
        return apply(made.op, *positions) if len(positions) == 2 and made.args[1] is const(0) else made
    if constant == 1 and op in _ABOVE:
        op, constant = _ABOVE[op], 0
    elif constant == -1 and op in _BELOW:
        op, constant = _BELOW[op], 0
    return comparison if constant else apply(op, distance, others[0])


def _of_number(op: Op, left: Expr, right: Expr) -> Expr:
    """x <= 7 as x < 8, x > 7 as x >= 8; against 0 x > 0 and x <= 0 stay."""
    number = right.value
    assert isinstance(number, int)
    if abs(number) > LARGEST:
        return apply(op, left, right)
    if op in (Op.LT, Op.GE) and number == 1:
        return apply(_ABOVE[op], left, const(0))
    if op in (Op.LE, Op.GT) and number != 0:
        return apply(_BELOW[op], left, const(number + 1))
    return apply(op, left, right)


def _sum(left: Expr, right: Expr) -> tuple[dict[Expr, int], int]:
    """left - right as how often each term counts, and a number."""
    terms: dict[Expr, int] = {}
    constant = 0
    for root, sign in ((left, 1), (right, -1)):
        for term, count in _summands(root).items():
            if term.op is Op.CONST:
                assert isinstance(term.value, int)
                constant += sign * count * term.value
            else:
                terms[term] = terms.get(term, 0) + sign * count
    return {term: count for term, count in terms.items() if count}, constant


def _summands(root: Expr) -> dict[Expr, int]:
    """The terms of a sum with how often each counts."""
    found: dict[Expr, int] = {}
    pending = [(root, 1)]
    while pending:
        expr, sign = pending.pop()
        if expr.op is Op.NEG:
            pending.append((expr.args[0], -sign))
        elif expr.op in (Op.ADD, Op.SUB):
            pending += [(expr.args[0], sign), (expr.args[1], sign if expr.op is Op.ADD else -sign)]
        else:
            found[expr] = found.get(expr, 0) + sign
    return found


def _reads(terms: list[Expr]) -> bool:
    return any(expr in (Q_IDX, KV_IDX) for term in terms for expr in postorder(term))

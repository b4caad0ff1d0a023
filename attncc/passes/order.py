"""One order for what has none: the parts of `and` and `or`, and the two sides of a comparison; one spelling of bounds
on positions, of a bound on both sides, `abs(x) < c`, and of what several parts have in common: `a and (b or c)`.

Masks that differ only there, or in the names of parameters and captured tensors, have one form and share their kernels.
Short parts come first, a side with positions stands on the left: `q_idx >= kv_idx and q_idx - kv_idx < window`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attncc.ir import FALSE, KV_IDX, Q_IDX, TRUE, AttentionSpec, Expr, Op, Scalar, apply, const, postorder, with_args
from attncc.passes.positions import spelled

MIRRORED: Final = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE, Op.EQ: Op.EQ, Op.NE: Op.NE}
CHAINS: Final = {Op.AND: Op.OR, Op.OR: Op.AND}


def order(mask: Expr, spec: AttentionSpec) -> Expr:
    """The mask with its parts in order; `spec` numbers parameters and captured tensors, whose names do not count."""
    return ordered(mask, spec)[mask]


def ordered(root: Expr, spec: AttentionSpec) -> Mapping[Expr, Expr]:
    """What each expression below the root becomes."""
    return _ordered(root, _Keys(_numbers(spec)))


def digest(root: Expr, spec: AttentionSpec, chosen: str) -> str:
    """What tells the role of one parameter in an expression, the others taken for one another; no name counts."""
    numbers = {
        each: int(each == (Op.PARAM, chosen)) if each[0] is Op.PARAM else i for each, i in _numbers(spec).items()
    }
    keys = _Keys(numbers)
    return keys.digest(_ordered(root, keys)[root])


def _numbers(spec: AttentionSpec) -> dict[tuple[Op, str], int]:
    numbers = {(Op.PARAM, p.name): i for i, p in enumerate(spec.parameters)}
    return numbers | {(Op.LOAD, c.name): i for i, c in enumerate(spec.captures)}


def _ordered(root: Expr, keys: _Keys) -> Mapping[Expr, Expr]:
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        made = with_args(expr, tuple(done[arg] for arg in expr.args))
        if expr.op in CHAINS:
            made = _chain(made, keys)
        elif expr.op is Op.ABS and made.args[0].op is Op.SUB:
            made = _led_by_query(made)
        elif expr.op in MIRRORED:
            made = _led_by_positions(spelled(made), keys)
        done[expr] = made
    return done


def _led_by_query(distance: Expr) -> Expr:
    """abs(kv_idx - q_idx) as abs(q_idx - kv_idx)."""
    left, right = distance.args[0].args
    turned = Q_IDX in postorder(right) and Q_IDX not in postorder(left)
    return apply(Op.ABS, apply(Op.SUB, right, left)) if turned else distance


def _led_by_positions(comparison: Expr, keys: _Keys) -> Expr:
    left, right = comparison.args
    turned = keys.side(left) < keys.side(right)
    return apply(MIRRORED[comparison.op], right, left) if turned else comparison


def _chain(expr: Expr, keys: _Keys) -> Expr:
    """A chain of one operation with its parts in order, each once, and what they have in common drawn out."""
    parts = _factored(expr.op, _two_sided(expr.op, _parts(expr.op, expr)), keys)
    return _joined(expr.op, sorted(parts, key=keys.part))


def _parts(op: Op, expr: Expr) -> list[Expr]:
    """The parts of a chain from left to right, each once."""
    parts: dict[Expr, None] = {}
    pending = [expr]
    while pending:
        part = pending.pop()
        if part.op is op:
            pending += reversed(part.args)
        else:
            parts[part] = None
    return list(parts)


def _joined(op: Op, parts: Iterable[Expr]) -> Expr:
    neutral = TRUE if op is Op.AND else FALSE
    result = neutral
    for part in parts:
        result = part if result is neutral else apply(op, result, part)
    return result


def _factored(op: Op, parts: list[Expr], keys: _Keys) -> list[Expr]:
    """The parts with a and b or a and c as a and (b or c), likewise for `and`; what most parts share comes first."""
    inner = CHAINS[op]
    while True:
        inside = {part: _parts(inner, part) for part in parts}
        counts = Counter(each for found in inside.values() for each in found)
        shared = [each for each, count in counts.items() if count > 1]
        if not shared:
            return parts
        factor = min(shared, key=lambda each: (-counts[each], keys.part(each)))
        holding = [part for part in parts if factor in inside[part]]
        rests = [[each for each in inside[part] if each is not factor] for part in holding]
        parts = [part for part in parts if part not in holding]
        if [] in rests:  # a or a and b is a
            parts.append(factor)
            continue
        rest = _chain(_joined(op, (_joined(inner, each) for each in rests)), keys)
        made = _chain(_joined(inner, (factor, rest)), keys)
        parts += [part for part in _parts(op, made) if part not in parts]


def _two_sided(op: Op, parts: Iterable[Expr]) -> list[Expr]:
    """The parts with x < c and -x < c as abs(x) < c; x >= c or -x >= c as abs(x) >= c. `parts` are in order, x a
    difference of Index expressions."""
    found = {bound: part for part in parts if (bound := _bound(part)) is not None}
    merged: dict[Expr, Expr] = {}
    for (comparison, left, right, limit), part in found.items():
        other = found.get((comparison, right, left, limit))
        if other is None or comparison not in _MERGED[op]:
            continue
        first, second = (left, right) if Q_IDX in postorder(left) else (right, left)
        distance = apply(Op.ABS, apply(Op.SUB, first, second))
        merged[part] = merged[other] = apply(comparison, distance, limit)
    return list(dict.fromkeys(merged.get(part, part) for part in parts))


#: Comparisons whose two sides hold together, or one of them, exactly where that of the absolute value holds.
_MERGED: Final = {Op.AND: (Op.LT, Op.LE), Op.OR: (Op.GT, Op.GE)}


def _bound(part: Expr) -> tuple[Op, Expr, Expr, Expr] | None:
    """(comparison, a, b, limit) for a - b `comparison` limit, where each of a and b holds a position; the bound of
    -limit from the other side is one of b - a."""
    if part.op not in MIRRORED or part.args[0].op is not Op.SUB or part.args[0].scalar is not Scalar.INDEX:
        return None
    (left, right), limit = part.args[0].args, part.args[1]
    sides = [{Q_IDX, KV_IDX} & set(postorder(each)) for each in (left, right)]
    if not all(len(each) == 1 for each in sides) or sides[0] == sides[1] or {Q_IDX, KV_IDX} & set(postorder(limit)):
        return None
    if limit.op is Op.NEG:
        return MIRRORED[part.op], right, left, limit.args[0]
    if limit.op is Op.CONST and isinstance(limit.value, int) and limit.value < 0:
        return MIRRORED[part.op], right, left, const(-limit.value)
    return part.op, left, right, limit


class _Keys:
    """By what parts and sides are ordered: nothing that depends on a name that a user chose."""

    def __init__(self, numbers: Mapping[tuple[Op, str], int]) -> None:
        self.numbers = numbers
        self.digests: dict[Expr, str] = {}

    def part(self, expr: Expr) -> tuple[int, str]:
        """Small parts first."""
        return len(postorder(expr)), self.digest(expr)

    def side(self, expr: Expr) -> tuple[bool, bool, bool, int, str]:
        """The larger one stands on the left, a number on the right."""
        found = postorder(expr)
        return Q_IDX in found, KV_IDX in found, expr.op is not Op.CONST, len(found), self.digest(expr)

    def digest(self, root: Expr) -> str:
        """Equal for what differs in names only."""
        for expr in postorder(root):
            if expr not in self.digests:
                value = self.numbers.get((expr.op, str(expr.value)), repr(expr.value))
                parts = (expr.op.value, str(value), str(expr.scalar), *(self.digests[arg] for arg in expr.args))
                self.digests[expr] = hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()
        return self.digests[root]

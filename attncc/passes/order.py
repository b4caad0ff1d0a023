"""One order for what has none: the parts of `and` and `or`, and the two sides of a comparison.

Masks that differ only there, or in the names of parameters and captured tensors, have one form and share their kernels.
Short parts come first, a side with positions stands on the left: `q_idx >= kv_idx and q_idx - kv_idx < window`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from attncc.ir import KV_IDX, Q_IDX, AttentionSpec, Expr, Op, apply, postorder, with_args

MIRRORED: Final = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE, Op.EQ: Op.EQ, Op.NE: Op.NE}
CHAINS: Final = (Op.AND, Op.OR)


def order(mask: Expr, spec: AttentionSpec) -> Expr:
    """The mask with its parts in order; `spec` numbers parameters and captured tensors, whose names do not count."""
    return ordered(mask, spec)[mask]


def ordered(root: Expr, spec: AttentionSpec) -> Mapping[Expr, Expr]:
    """What each expression below the root becomes."""
    numbers = {(Op.PARAM, p.name): i for i, p in enumerate(spec.parameters)}
    numbers |= {(Op.LOAD, c.name): i for i, c in enumerate(spec.captures)}
    keys = _Keys(numbers)
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        made = with_args(expr, tuple(done[arg] for arg in expr.args))
        if expr.op in CHAINS:
            made = _chain(made, keys)
        elif expr.op in MIRRORED and keys.side(made.args[0]) < keys.side(made.args[1]):
            made = apply(MIRRORED[made.op], made.args[1], made.args[0])
        done[expr] = made
    return done


def _chain(expr: Expr, keys: _Keys) -> Expr:
    """A chain of one operation with its parts in order, each once."""
    parts: dict[Expr, None] = {}
    pending = [expr]
    while pending:
        part = pending.pop()
        if part.op is expr.op:
            pending += reversed(part.args)
        else:
            parts[part] = None
    first, *rest = sorted(parts, key=keys.part)
    for part in rest:
        first = apply(expr.op, first, part)
    return first


class _Keys:
    """By what parts and sides are ordered: nothing that depends on a name that a user chose."""

    def __init__(self, numbers: Mapping[tuple[Op, str], int]) -> None:
        self.numbers = numbers
        self.digests: dict[Expr, str] = {}

    def part(self, expr: Expr) -> tuple[int, str]:
        """Small parts first."""
        return len(postorder(expr)), self._digest(expr)

    def side(self, expr: Expr) -> tuple[bool, bool, int, str]:
        """The larger one stands on the left."""
        found = postorder(expr)
        return Q_IDX in found, KV_IDX in found, len(found), self._digest(expr)

    def _digest(self, root: Expr) -> str:
        for expr in postorder(root):
            if expr not in self.digests:
                value = self.numbers.get((expr.op, str(expr.value)), repr(expr.value))
                parts = (expr.op.value, str(value), str(expr.scalar), *(self.digests[arg] for arg in expr.args))
                self.digests[expr] = hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()
        return self.digests[root]

"""On which of score, b, h, q_idx and kv_idx an expression depends.

Dependence decides where a line is printed (once per program, row, column or element) and which side of a tile a
captured value belongs to. Sizes and parameters are the same everywhere and count as nothing.
"""

from __future__ import annotations

import weakref
from typing import Final

from attncc.ir import Expr, Op, postorder

#: The inputs that differ from pair to pair.
VARYING: Final = frozenset({"score", "b", "h", "q_idx", "kv_idx"})
_NOTHING: Final[frozenset[str]] = frozenset()

_DEPENDS: weakref.WeakKeyDictionary[Expr, frozenset[str]] = weakref.WeakKeyDictionary()
_READS: weakref.WeakKeyDictionary[Expr, bool] = weakref.WeakKeyDictionary()


def depends(expr: Expr) -> frozenset[str]:
    """The names among score, b, h, q_idx and kv_idx that the value can change with; remembered for each node."""
    found = _DEPENDS.get(expr)
    if found is not None:
        return found
    for each in postorder(expr):
        if each not in _DEPENDS:
            _DEPENDS[each] = _own(each).union(*(_DEPENDS[arg] for arg in each.args))
    return _DEPENDS[expr]


def reads_captures(expr: Expr) -> bool:
    """Whether the value comes from a captured tensor, in whole or in part; remembered for each node."""
    found = _READS.get(expr)
    if found is not None:
        return found
    for each in postorder(expr):
        if each not in _READS:
            _READS[each] = each.op is Op.LOAD or any(_READS[arg] for arg in each.args)
    return _READS[expr]


def side(expr: Expr) -> str:
    """`q` or `kv` where the value changes along that side only, `point` along neither, `pair` along both."""
    names = depends(expr)
    if "score" in names or {"q_idx", "kv_idx"} <= names:
        return "pair"
    return "q" if "q_idx" in names else "kv" if "kv_idx" in names else "point"


def _own(expr: Expr) -> frozenset[str]:
    if expr.op is Op.INPUT and expr.value in VARYING:
        return frozenset({str(expr.value)})
    return _NOTHING

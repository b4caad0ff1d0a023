"""Expr -> Expr: simplification, differentiation, and lifting -inf scores into the mask."""

from attncc.passes.derive import derive
from attncc.passes.lift import lift
from attncc.passes.simplify import simplify

__all__ = ["derive", "lift", "simplify"]

"""Expr -> Expr: simplification, differentiation, and lifting -inf scores into the mask."""

from attncc.passes.simplify import simplify

__all__ = ["simplify"]

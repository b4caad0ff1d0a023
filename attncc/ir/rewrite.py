"""Rewriting expressions bottom-up by a table of rules.

A rule takes a node whose arguments are already rewritten and returns another expression, or None to leave it. The rules
of an operation are tried in order until none applies; shared nodes are rewritten once; nothing recurses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attncc.errors import InternalError
from attncc.ir.expr import Expr, Op, node, postorder

RewriteRule = Callable[[Expr], Expr | None]
MAX_STEPS = 1000


def rewrite(root: Expr, rules: Mapping[Op, Sequence[RewriteRule]]) -> Expr:
    """The expression after every rule has been applied until none does."""
    return _Rewriter(rules).run(root)


def substitute(root: Expr, replacements: Mapping[Expr, Expr]) -> Expr:
    """The expression with every occurrence of a key replaced by its value, all at once."""
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        done[expr] = replacements.get(expr) or with_args(expr, tuple(done[arg] for arg in expr.args))
    return done[root]


def with_args(expr: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same operation on other arguments of the same kinds."""
    return expr if args == expr.args else node(expr.op, args, expr.value, expr.scalar)


class _Rewriter:
    """One run: remembers the normal form of each node it has seen."""

    def __init__(self, rules: Mapping[Op, Sequence[RewriteRule]]) -> None:
        self.rules = rules
        self.done: dict[Expr, Expr] = {}
        self.became: dict[Expr, Expr] = {}
        self.steps: dict[Expr, int] = {}

    def run(self, root: Expr) -> Expr:
        """Rewrite what is below the root, then the root; a node that a rule made is rewritten in its turn."""
        stack = [root]
        while stack:
            expr = stack[-1]
            pending = [arg for arg in expr.args if arg not in self.done]
            if expr in self.done:
                stack.pop()
            elif pending:
                stack.extend(reversed(pending))
            else:
                changed = self.became.get(expr) or self._step(expr)
                if changed is not None and changed not in self.done:
                    self._count(expr)
                    self.became[expr] = changed
                    stack.append(changed)
                else:
                    self.done[expr] = expr if changed is None else self.done[changed]
                    stack.pop()
        return self.done[root]

    def _step(self, expr: Expr) -> Expr | None:
        """One change of this node, or None when it is in normal form."""
        rebuilt = with_args(expr, tuple(self.done[arg] for arg in expr.args))
        if rebuilt is not expr:
            return rebuilt
        for rule in self.rules.get(expr.op, ()):
            changed = rule(expr)
            if changed is not None and changed is not expr:
                return changed
        return None

    def _count(self, expr: Expr) -> None:
        self.steps[expr] = self.steps.get(expr, 0) + 1
        if self.steps[expr] > MAX_STEPS:
            raise InternalError(f"the rules of `{expr.op.value}` do not come to an end")

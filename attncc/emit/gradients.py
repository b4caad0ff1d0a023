"""How the gradients of scores and captured tensors are written.

From the gradient of a tile of modified scores, each read of a captured tensor takes its share: times the derivative by
that read, summed over every axis on which its index does not depend, added at the index. The sum runs in one order, so
that results are the same bits each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.shape import depends
from attncc.emit.printer import Line
from attncc.emit.spelling import TORCH
from attncc.ir import AttentionSpec, Expr, Op, Scalar, const, postorder
from attncc.schedule import Gradients

AXES: Final = ("b", "h", "q_idx", "kv_idx")
#: Operations whose derivative can be infinite or NaN where the weight of a pair is 0.
FRAGILE: Final = frozenset(
    (Op.DIV, Op.FLOORDIV, Op.MOD, Op.POW, Op.LOG, Op.LOG2, Op.LOG1P, Op.SQRT, Op.RSQRT, Op.EXP, Op.EXP2, Op.EXPM1)
)


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of the modified score: by the score, and by each read of a capture that takes a gradient."""

    by_score: Expr
    by_load: Mapping[Expr, Expr]
    gradients: Gradients
    captures: tuple[str, ...]

    @property
    def roots(self) -> tuple[Expr, ...]:
        """Everything to print."""
        own = (self.by_score,) if self.gradients.q or self.gradients.k else ()
        return (*own, *self.by_load.values())

    def wanted(self) -> list[str]:
        """The captures that take a gradient, in order."""
        return [name for name, wanted in zip(self.captures, self.gradients.captures, strict=True) if wanted]

    def totals(self, names: Mapping[str, str]) -> list[str]:
        """The lines that make the sums of the gradients."""
        rows = [(self.captures.index(name), names[name]) for name in self.wanted()]
        return [f"grad_{name} = torch.zeros(captures[{i}].shape, dtype=FLOAT, device=device)" for i, name in rows]

    def results(self, names: Mapping[str, str], wanted: Sequence[bool]) -> list[str]:
        """The gradients of all captures, None where none is wanted."""
        return [
            f"grad_{names[name]}.to(captures[{i}].dtype)" if want else "None"
            for i, (name, want) in enumerate(zip(self.captures, wanted, strict=True))
        ]


def differentiable(spec: AttentionSpec) -> tuple[bool, ...]:
    """For each capture, whether the score reads it as a Float, so that it can have a gradient."""
    reads = {str(e.value) for e in postorder(spec.score) if e.op is Op.LOAD and e.scalar is Scalar.FLOAT}
    return tuple(capture.name in reads for capture in spec.captures)


def score_gradient_lines(derivatives: Derivatives, texts: Mapping[Expr, str]) -> list[Line]:
    """The lines that turn the gradient of the modified scores into that of the scores, in place."""
    root = derivatives.by_score
    if not (derivatives.gradients.q or derivatives.gradients.k) or root is const(1.0):
        return []
    lines = [Line(f"grad_score.mul_({texts[root]})")]
    return lines + ([Line("grad_score.masked_fill_(pairs == 0.0, 0.0)")] if is_fragile(root) else [])


def capture_gradient_lines(
    derivatives: Derivatives,
    texts: Mapping[Expr, str],
    names: Mapping[str, str],
    slices: Callable[[Expr], str] = lambda load: "",
) -> list[Line]:
    """The lines that add a tile's share to the gradient of each capture; `slices` is where a tile owns its part."""
    lines: list[Line] = []
    for load, derivative in derivatives.by_load.items():
        total = f"grad_{names[str(load.value)]}"
        own = frozenset[str]().union(*(depends(i) for i in load.args))
        own = frozenset(AXES) if "score" in own else own
        share = _share(derivative, texts[derivative], own)
        if slices(load):
            lines.append(Line(f"{total}[{slices(load)}].add_({share})"))
            continue
        index = [TORCH.tensor(i.value) if i.op is Op.CONST else texts[i] for i in load.args]  # type: ignore[arg-type]
        places = "".join(f"{each}, " for each in index).strip()
        lines.append(Line(f"add_at({total}, ({places}), {share})"))
    return lines


def _share(derivative: Expr, text: str, own: frozenset[str]) -> str:
    """The gradient by one read, summed over the axes on which its index does not depend."""
    fragile = is_fragile(derivative)
    needed = set(AXES) if fragile or "score" in depends(derivative) else depends(derivative)
    early = [a for a in AXES if a not in own and a not in needed]
    late = [a for a in AXES if a not in own and a in needed]
    product = f"grad_score{_sum(early)}"
    if derivative is not const(1.0):
        product = f"({product} * {text})" if text.isidentifier() or text.endswith(")") else f"({product} * ({text}))"
    if fragile:
        product = f"{product}.masked_fill_(pairs == 0.0, 0.0)"
    return f"{product}{_sum(late)}"


def _sum(axes: Sequence[str]) -> str:
    dims = ", ".join(str(AXES.index(axis)) for axis in axes)
    return f".sum(({dims},), keepdim=True)".replace(",)", ")" if len(axes) > 1 else ",)") if axes else ""


def is_fragile(derivative: Expr) -> bool:
    """Whether the derivative may be infinite or NaN somewhere; a hidden pair must not carry that on."""
    return any(_may_blow_up(expr) for expr in postorder(derivative))


def _may_blow_up(expr: Expr) -> bool:
    if expr.op is Op.CONST:
        return isinstance(expr.value, float) and not math.isfinite(expr.value)
    divides = expr.op in (Op.DIV, Op.FLOORDIV, Op.MOD) and expr.args[1].op is Op.CONST and bool(expr.args[1].value)
    return expr.op in FRAGILE and not divides

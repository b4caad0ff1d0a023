"""The plain dense meaning of a spec, in eager PyTorch: what every back end is compared with.

All pairs [B, H, Lq, Lkv] at once, in the dtype of q (float32 for halves); torch's autograd differentiates it. Nothing
here is fast, tiled or fused, and nothing is shared with the code generators. Double backward is not supported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, overload

import torch
from torch import Tensor

from attncc.errors import InputError
from attncc.ir import (
    FALSE,
    NAMED_DIMS,
    NEG_INF,
    AttentionSpec,
    Expr,
    Op,
    Scalar,
    apply,
    conjunction,
    disjunction,
    postorder,
)
from attncc.reference.dense import World, describe_outside, differentiate, evaluate_dense, observe

__all__ = ["evaluate_dense", "hides", "reference", "reference_scores"]

Captures = Sequence[Tensor] | Mapping[str, Tensor]
INFINITY: Final = math.inf


@overload
def reference(
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Captures = (),
    parameters: Mapping[str, int] | None = None,
    *,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    check_bounds: bool = True,
) -> Tensor: ...


@overload
def reference(
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Captures = (),
    parameters: Mapping[str, int] | None = None,
    *,
    scale: float | None = None,
    return_lse: Literal[True],
    check_bounds: bool = True,
) -> tuple[Tensor, Tensor]: ...


def reference(
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Captures = (),
    parameters: Mapping[str, int] | None = None,
    *,
    scale: float | None = None,
    return_lse: bool = False,
    check_bounds: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """The attention output [B, H, Lq, Dv] in q's dtype; with `return_lse` also lse [B, H, Lq], base e.

    Shapes: q [B, H, Lq, D], k [B or 1, Hkv, Lkv, D], v [B or 1, Hkv, Lkv, Dv], H a multiple of Hkv. Captures come in
    the order of the spec or by name. An index beyond its tensor at a visible pair raises InputError, or makes the row
    NaN where `check_bounds` is False.
    """
    score = reference_scores(spec, q, k, captures, parameters, scale=scale, check_bounds=check_bounds)
    weights, lse = _softmax(score)
    out = (weights @ _per_head(v, q).to(score.dtype)).to(q.dtype)
    return (out, lse) if return_lse else out


def reference_scores(
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    captures: Captures = (),
    parameters: Mapping[str, int] | None = None,
    *,
    scale: float | None = None,
    check_bounds: bool = True,
) -> Tensor:
    """The scores [B, H, Lq, Lkv] that softmax sees: -inf at exactly the masked pairs; differentiable."""
    _check_shapes(q, k)
    dtype = torch.promote_types(q.dtype, torch.float32)
    raw = _per_head(k, q).to(dtype).mT
    raw = (q.to(dtype) @ raw) * (scale if scale is not None else 1 / math.sqrt(max(q.shape[-1], 1)))
    sizes = dict(zip(NAMED_DIMS, raw.shape, strict=True))
    world = _make_world(spec, sizes, captures, parameters, score=raw)
    hidden = hides(spec.score)
    visible_expr = conjunction(spec.mask, apply(Op.NOT, hidden))
    with torch.no_grad():
        seen = observe(world, visible_expr, spec.score)
        unsure = seen.outside[visible_expr]
        shown = seen.values[visible_expr] | unsure
        bad = (unsure | (shown & seen.outside[spec.score])).expand(raw.shape)
        if check_bounds and bad.any():
            raise describe_outside(world, seen, bad)
        visible = (shown & (seen.values[spec.score] != -INFINITY)).expand(raw.shape) & ~bad
    result = differentiate(world, seen, spec.score, visible)
    return torch.where(visible, result, torch.where(bad, math.nan, -INFINITY).to(dtype))


def _softmax(score: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and lse of each row. A row of only -inf has weights 0; NaN or +inf makes its row NaN."""
    visible = score != -INFINITY
    empty = ~visible.any(-1, keepdim=True)
    # One more column, so that a row without keys has a maximum.
    best = torch.nn.functional.pad(score.detach(), (0, 1), value=-INFINITY).amax(-1, keepdim=True)
    best = torch.where(empty, 0.0, best)
    part = torch.where(visible, torch.exp(torch.where(visible, score - best, 0.0)), 0.0)
    total = torch.where(empty, 1.0, part.sum(-1, keepdim=True))
    lse = torch.where(empty, -INFINITY, best + torch.log(total))
    return part / total, lse.squeeze(-1)


def hides(score: Expr) -> Expr:
    """Where a -inf that the definition writes hides the pair, as a Bool expression.

    It does through `where`, sums, differences, minima, maxima of two, and positive constant factors, whatever else is
    added to it there: even NaN.
    """
    found: dict[Expr, Expr] = {}
    for expr in postorder(score):
        found[expr] = _hides(expr, [found[arg] for arg in expr.args])
    return found[score]


def _hides(expr: Expr, below: list[Expr]) -> Expr:
    match expr.op:
        case Op.CONST:
            return apply(Op.EQ, expr, NEG_INF) if expr.scalar is Scalar.FLOAT else FALSE
        case Op.WHERE if expr.scalar is Scalar.FLOAT:
            condition = expr.args[0]
            chosen = conjunction(condition, below[1]) if below[1] is not FALSE else FALSE
            other = conjunction(apply(Op.NOT, condition), below[2]) if below[2] is not FALSE else FALSE
            return disjunction(chosen, other)
        case Op.ADD | Op.MIN:
            return disjunction(below[0], below[1])
        case Op.MAX:
            return conjunction(below[0], below[1]) if FALSE not in below else FALSE
        case Op.SUB:
            return below[0]
        case Op.MUL if _is_positive(expr.args[0]):
            return below[1]
        case Op.MUL | Op.DIV if _is_positive(expr.args[1]):
            return below[0]
        case _:
            return FALSE


def _is_positive(expr: Expr) -> bool:
    return expr.op is Op.CONST and isinstance(expr.value, float) and 0 < expr.value < INFINITY


def _make_world(
    spec: AttentionSpec,
    sizes: Mapping[str, int],
    captures: Captures,
    parameters: Mapping[str, int] | None,
    *,
    score: Tensor,
) -> World:
    """The surroundings of a call. Raises InputError for captures and parameters that do not fit the spec."""
    given = captures if isinstance(captures, Mapping) else _by_order(spec, captures)
    for capture in spec.captures:
        if capture.name not in given:
            raise InputError(f"the captured tensor `{capture.name}` is missing")
        expected = tuple(sizes.get(str(dim), dim) for dim in capture.dims)
        shape = tuple(given[capture.name].shape)
        if len(shape) != capture.rank or any(e not in ("_", n) for e, n in zip(expected, shape, strict=True)):
            wanted = ", ".join(map(str, capture.dims))
            raise InputError(f"`{capture.name}` has shape {list(shape)}, but is declared as [{wanted}]")
    values = {parameter.name: parameter.value for parameter in spec.parameters}
    unknown = sorted(set(parameters or {}) - set(values))
    if unknown:
        raise InputError(f"unknown parameter `{unknown[0]}`")
    return World(sizes, given, {**values, **(parameters or {})}, score, score.dtype)


def _by_order(spec: AttentionSpec, captures: Sequence[Tensor]) -> dict[str, Tensor]:
    if len(captures) != len(spec.captures):
        raise InputError(f"{len(spec.captures)} captured tensors are needed, but {len(captures)} are given")
    return {capture.name: tensor for capture, tensor in zip(spec.captures, captures, strict=True)}


def _check_shapes(q: Tensor, k: Tensor) -> None:
    if q.dim() != 4 or k.dim() != 4:
        raise InputError(f"q and k need 4 dimensions, but have shapes {list(q.shape)} and {list(k.shape)}")
    if k.shape[0] not in (1, q.shape[0]) or q.shape[-1] != k.shape[-1] or q.shape[1] % max(k.shape[1], 1):
        raise InputError(f"q of shape {list(q.shape)} does not fit k of shape {list(k.shape)}")


def _per_head(tensor: Tensor, q: Tensor) -> Tensor:
    """k or v with a head for each query head: head h reads h // (Hq / Hkv)."""
    group = q.shape[1] // max(tensor.shape[1], 1)
    return tensor.expand(q.shape[0], -1, -1, -1).repeat_interleave(group, 1)

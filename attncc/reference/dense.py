"""The value of expressions at all pairs [B, H, Lq, Lkv] at once, in eager PyTorch, by a table of its own.

`observe` finds values, and where they depend on a read beyond a tensor. `differentiate` evaluates a Float expression
once more under autograd, each operation at 1 where its value takes no part in the result, so that what is hidden or
not selected gives a gradient of exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from attncc.errors import InputError
from attncc.ir import NAMED_DIMS, Expr, Op, Scalar, postorder


@dataclass(frozen=True, slots=True)
class World:
    """What expressions read: sizes, captured tensors and parameters by name, the raw score [B, H, Lq, Lkv]."""

    sizes: Mapping[str, int]
    captures: Mapping[str, Tensor]
    parameters: Mapping[str, int]
    score: Tensor | None
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        tensors = [t for t in (self.score, *self.captures.values()) if t is not None]
        return next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))

    def input(self, name: str) -> Tensor:
        """An input, in a shape that broadcasts to [B, H, Lq, Lkv]."""
        if name == "score":
            assert self.score is not None
            return self.score
        if name in self.sizes:
            return torch.tensor(self.sizes[name], device=self.device)
        axis = ("b", "h", "q_idx", "kv_idx").index(name)
        shape = [-1 if i == axis else 1 for i in range(4)]
        return torch.arange(self.sizes[NAMED_DIMS[axis]], device=self.device).view(shape)


def evaluate_dense(
    expr: Expr,
    sizes: Mapping[str, int],
    captures: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, int] | None = None,
    *,
    score: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The value of any expression at all pairs [B, H, Lq, Lkv]; `sizes` holds batch, heads, q_len and kv_len.

    A read beyond its tensor gives some element of it. Not differentiable.
    """
    world = World(dict(sizes), captures or {}, parameters or {}, score, dtype)
    with torch.no_grad():
        return observe(world, expr).values[expr].expand(*(sizes[name] for name in NAMED_DIMS))


@dataclass(frozen=True, slots=True)
class Observed:
    """The value of each node, and where it depends on a read beyond a tensor or on a division of an int by 0."""

    values: dict[Expr, Tensor]
    outside: dict[Expr, Tensor]


def observe(world: World, *roots: Expr) -> Observed:
    """The values of everything below the roots, in shapes that broadcast to [B, H, Lq, Lkv]."""
    values: dict[Expr, Tensor] = {}
    outside: dict[Expr, Tensor] = {}
    for expr in postorder(*roots):
        args = [values[arg] for arg in expr.args]
        values[expr] = _compute(world, expr, args)
        outside[expr] = _outside(world, expr, args, [outside[arg] for arg in expr.args])
    return Observed(values, outside)


def _outside(world: World, expr: Expr, args: list[Tensor], below: list[Tensor]) -> Tensor:
    """What `where` does not select, and what `and` and `or` do not need, is not read."""
    match expr.op:
        case Op.WHERE:
            return below[0] | torch.where(args[0], below[1], below[2])
        case Op.AND | Op.OR:
            a, b = args if expr.op is Op.AND else (~args[0], ~args[1])
            return (below[0] & below[1]) | (below[0] & b) | (below[1] & a)
        case Op.LOAD:
            sizes = world.captures[str(expr.value)].shape
            beyond = [(index < -n) | (index >= n) for index, n in zip(args, sizes, strict=True)]
            return _any((*below, *beyond), world)
        case Op.FLOORDIV | Op.MOD if expr.scalar is Scalar.INDEX:
            return _any((*below, args[1] == 0), world)
        case _:
            return _any(below, world)


def _any(flags: Iterable[Tensor], world: World) -> Tensor:
    result = torch.tensor(False, device=world.device)
    for flag in flags:
        result = result | flag
    return result


def describe_outside(world: World, seen: Observed, bad: Tensor) -> InputError:
    """The error for the first load that leaves its tensor at one of the bad pairs."""
    for expr, flag in seen.outside.items():
        wrong = flag & bad
        if expr.op is not Op.LOAD or not wrong.any() or any((seen.outside[arg] & wrong).any() for arg in expr.args):
            continue
        for dim, (arg, size) in enumerate(zip(expr.args, world.captures[str(expr.value)].shape, strict=True)):
            index = seen.values[arg].expand(bad.shape)[wrong]
            index = index[(index < -size) | (index >= size)]
            if index.numel():
                message = f"`{expr.value}` has size {size} in dimension {dim}, but is read at {_span(index)}"
                error = InputError(message, hint="hide these pairs in `mask`, or clamp the index")
                error.capture = str(expr.value)
                return error
    return InputError("an int is divided by 0 at a visible pair", hint="hide this pair in `mask`")


def _span(index: Tensor) -> str:
    low, high = int(index.min()), int(index.max())
    return str(low) if low == high else f"{low} to {high}"


def differentiate(world: World, seen: Observed, root: Expr, visible: Tensor) -> Tensor:
    """The value of the root where it is visible, some finite number elsewhere, under autograd."""
    used = _find_used(seen, root, visible)
    values: dict[Expr, Tensor] = {}
    for expr in postorder(root):
        if expr.scalar is not Scalar.FLOAT:
            values[expr] = seen.values[expr]
            continue
        args = [values[arg] for arg in expr.args]
        if expr.op in (Op.MIN, Op.MAX):
            values[expr] = _extreme(expr.op, args, [seen.values[arg] for arg in expr.args])
        elif expr.op is Op.WHERE:
            values[expr] = torch.where(args[0], args[1], args[2])
        else:
            floats = [arg.scalar is Scalar.FLOAT for arg in expr.args]
            args = [torch.where(used[expr], a, 1.0) if f else a for a, f in zip(args, floats, strict=True)]
            values[expr] = _compute(world, expr, args)
    return values[root]


def _extreme(op: Op, args: list[Tensor], seen: list[Tensor]) -> Tensor:
    """The operand that was the extreme one; what the other has become by now does not matter."""
    first = seen[0] > seen[1] if op is Op.MAX else seen[0] < seen[1]
    second = seen[0] < seen[1] if op is Op.MAX else seen[0] > seen[1]
    return torch.where(first, args[0], torch.where(second, args[1], TORCH[op](*args)))


def _find_used(seen: Observed, root: Expr, visible: Tensor) -> dict[Expr, Tensor]:
    """At which pairs the value of each Float node takes part in the value of the root."""
    order = postorder(root)
    used = {expr: torch.zeros_like(visible) for expr in order}
    used[root] = visible
    for expr in reversed(order):
        for i, arg in enumerate(expr.args):
            used[arg] = used[arg] | (used[expr] & _selects(seen, expr, i))
    return used


def _selects(seen: Observed, expr: Expr, operand: int) -> Tensor:
    """Where the operation takes this operand; both, where a minimum or maximum is a tie."""
    args = [seen.values[arg] for arg in expr.args]
    match expr.op, operand:
        case Op.WHERE, 1:
            return args[0]
        case Op.WHERE, 2:
            return ~args[0]
        case (Op.MAX, 0) | (Op.MIN, 1):
            return ~(args[0] < args[1])
        case (Op.MAX, 1) | (Op.MIN, 0):
            return ~(args[0] > args[1])
        case _:
            return torch.tensor(True, device=args[0].device)


def _compute(world: World, expr: Expr, args: list[Tensor]) -> Tensor:
    match expr.op:
        case Op.CONST:
            kind = {Scalar.BOOL: torch.bool, Scalar.INDEX: torch.int64, Scalar.FLOAT: world.dtype}[expr.scalar]
            return torch.tensor(expr.value, dtype=kind, device=world.device)
        case Op.INPUT:
            return world.input(str(expr.value))
        case Op.PARAM:
            return torch.tensor(world.parameters[str(expr.value)], device=world.device)
        case Op.LOAD:
            kind = {Scalar.BOOL: torch.bool, Scalar.INDEX: torch.int64, Scalar.FLOAT: world.dtype}[expr.scalar]
            return _read(world, expr, args).to(kind)
        case Op.CAST:
            return args[0].to(torch.int64 if expr.scalar is Scalar.INDEX else world.dtype)
        case Op.NARROW:
            rounded: Tensor = _Narrow.apply(args[0], getattr(torch, str(expr.value)))  # type: ignore[no-untyped-call]
            return rounded
        case Op.LT | Op.LE | Op.GT | Op.GE | Op.EQ | Op.NE if any(_is_double(world, arg) for arg in expr.args):
            return TORCH[expr.op](*(_exact(world, e, a) for e, a in zip(expr.args, args, strict=True)))
        case _:
            return TORCH[expr.op](*args)


def _read(world: World, expr: Expr, index: list[Tensor]) -> Tensor:
    """The elements at an index: from the end where it is negative, the nearest one where it is beyond."""
    table = world.captures[str(expr.value)].to(world.device)
    if not index:
        return table
    if table.numel() == 0:
        return torch.zeros_like(sum(index, index[0]), dtype=table.dtype)
    wrapped = [torch.where(i < 0, i + n, i).clamp(0, n - 1) for i, n in zip(index, table.shape, strict=True)]
    return table[tuple(wrapped)]


def _is_double(world: World, expr: Expr) -> bool:
    return expr.op is Op.LOAD and world.captures[str(expr.value)].dtype is torch.float64 is not world.dtype


def _exact(world: World, expr: Expr, value: Tensor) -> Tensor:
    """An operand as float64 for a comparison with a captured float64, rounded to q's dtype nowhere before."""
    match expr.op:
        case Op.LOAD if _is_double(world, expr):
            index = [observe(world, arg).values[arg] for arg in expr.args]
            return _read(world, expr, index)
        case Op.CONST:
            return torch.tensor(expr.value, dtype=torch.float64, device=world.device)
        case _:
            return value.double()


class _Narrow(torch.autograd.Function):
    """Rounds to a shorter dtype; the gradient passes through unrounded."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.float().to(dtype).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, _nonzero(b), rounding_mode="floor")


def _remainder(a: Tensor, b: Tensor) -> Tensor:
    return torch.remainder(a, _nonzero(b))


def _nonzero(b: Tensor) -> Tensor:
    # Torch raises for an int divided by 0 even where nobody reads the result; `_outside` says where somebody does.
    return b if b.is_floating_point() else torch.where(b == 0, 1, b)


TORCH: Final[Mapping[Op, Callable[..., Tensor]]] = {
    Op.ADD: torch.add,
    Op.SUB: torch.sub,
    Op.MUL: torch.mul,
    Op.DIV: torch.div,
    Op.FLOORDIV: _floor_divide,
    Op.MOD: _remainder,
    Op.POW: torch.pow,
    Op.NEG: torch.neg,
    Op.ABS: torch.abs,
    Op.MIN: torch.minimum,
    Op.MAX: torch.maximum,
    Op.BIT_AND: torch.bitwise_and,
    Op.BIT_OR: torch.bitwise_or,
    Op.BIT_XOR: torch.bitwise_xor,
    Op.SHIFT_LEFT: torch.bitwise_left_shift,
    Op.SHIFT_RIGHT: torch.bitwise_right_shift,
    Op.EXP: torch.exp,
    Op.EXP2: torch.exp2,
    Op.EXPM1: torch.expm1,
    Op.LOG: torch.log,
    Op.LOG2: torch.log2,
    Op.LOG1P: torch.log1p,
    Op.SQRT: torch.sqrt,
    Op.RSQRT: torch.rsqrt,
    Op.TANH: torch.tanh,
    Op.SIGMOID: torch.sigmoid,
    Op.SIN: torch.sin,
    Op.COS: torch.cos,
    Op.ATAN: torch.atan,
    Op.ERF: torch.erf,
    Op.FLOOR: torch.floor,
    Op.CEIL: torch.ceil,
    Op.ROUND: torch.round,
    Op.TRUNC: torch.trunc,
    Op.LT: torch.lt,
    Op.LE: torch.le,
    Op.GT: torch.gt,
    Op.GE: torch.ge,
    Op.EQ: torch.eq,
    Op.NE: torch.ne,
    Op.AND: torch.logical_and,
    Op.OR: torch.logical_or,
    Op.XOR: torch.logical_xor,
    Op.NOT: torch.logical_not,
    Op.WHERE: torch.where,
}

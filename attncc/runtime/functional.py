"""Attention under `torch.func.grad` and its kin, which follow no operator's registered gradient.

The same two operators, joined as `torch.autograd.Function` in the form that functional transforms ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attncc.errors import UnsupportedError

#: The innermost functional transform that runs, or None.
transform: Final = torch._C._functorch.peek_interpreter_stack


def attend(
    q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], rest: tuple[Any, ...], can: Sequence[bool]
) -> Any:
    """What `attncc::forward` gives; `rest` are its arguments after the captures, `can` tells what has a gradient."""
    return _Forward.apply(q, k, v, rest, tuple(can), *captures)  # type: ignore[no-untyped-call]  # torch's


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, rest: tuple[Any, ...], can: tuple[bool, ...], *captures: Tensor
    ) -> Any:
        return tuple(torch.ops.attncc.forward(q, k, v, list(captures), *rest))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        q, k, v, ctx.rest, ctx.can, *captures = inputs
        out, _, largest, sums = output
        ctx.mark_non_differentiable(largest, sums)
        ctx.save_for_backward(q, k, v, out, largest, sums, *captures)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        asked = ctx.needs_input_grad
        wanted = [*asked[:3], *(a and b for a, b in zip(asked[5:], ctx.can, strict=True))]
        found = iter(_Backward.apply(ctx.rest, wanted, *grads[:2], *ctx.saved_tensors))  # type: ignore[no-untyped-call]
        of_q, of_k, of_v, *of_captures = [next(found) if want else None for want in wanted]
        return (of_q, of_k, of_v, None, None, *of_captures)

    @staticmethod
    def vmap(*_: Any) -> Any:
        refuse_vmap()


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(rest: tuple[Any, ...], wanted: list[bool], *tensors: Tensor) -> Any:
        captures = list(tensors[8:])
        return tuple(torch.ops.attncc.backward(*tensors[:8], captures, *rest[:-1], wanted))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        refuse_second()

    @staticmethod
    def vmap(*_: Any) -> Any:
        refuse_vmap()


def refuse_duals(tensors: Sequence[Tensor]) -> None:
    """Raise UnsupportedError for tensors that are differentiated in forward mode."""
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):  # type: ignore[no-untyped-call]  # torch's
        raise UnsupportedError(
            "attention cannot be differentiated in forward mode (jvp)",
            hint="use reverse mode (backward), or attncc.reference, which is plain torch",
        )


def refuse_second(*_: object) -> None:
    """Raise UnsupportedError: the gradient has no gradient of its own."""
    raise UnsupportedError(
        "attention cannot be differentiated twice (double backward)",
        hint="use attncc.reference, which is plain torch, where second derivatives are needed",
    )


def refuse_vmap(*_: object) -> None:
    """Raise UnsupportedError: there is no rule for a mapped dimension."""
    raise UnsupportedError(
        "attention cannot run under torch.vmap",
        hint="q, k and v have a batch dimension: fold the mapped dimension into it",
    )

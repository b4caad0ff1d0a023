"""Calls in plain eager PyTorch, prepared once for each layout of tensors, without torch's dispatcher.

Registered operators serve whatever traces, transforms or intercepts operations; a call where nothing does reaches the
same kernels here for a fraction of the host's time. Gradients, and what is refused, are those of the operators: where
anything but a plain backward pass is asked for, the operator runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attncc.errors import InternalError
from attncc.runtime import op
from attncc.runtime.ahead import begin_backward
from attncc.runtime.triton_attention import TritonPass
from attncc.runtime.triton_forward import prepare_forward
from attncc.runtime.triton_values import ALIGNMENT

#: out, lse if it is asked for, and what the backward pass needs besides.
Forward = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], bool], tuple[Tensor, Tensor | None, tuple[Tensor, ...]]]
Layout = tuple[Any, ...]

_DENSE: Final = torch.strided
_KINDS: Final = frozenset((Tensor, torch.nn.Parameter))
_dispatch_modes: Final = torch._C._len_torch_dispatch_stack
_function_modes: Final = torch._C._len_torch_function_stack
_transforms: Final = torch._C._functorch.peek_interpreter_stack
_is_profiled: Final = torch._C._autograd._profiler_enabled
_jit_trace: Final = torch._C._get_tracing_state
_frame_callback: Final = torch._C._dynamo.eval_frame.get_eval_frame_callback


def is_observed() -> bool:
    """Whether torch.compile traces this, or compiles the Python functions that are called here."""
    if torch.compiler.is_compiling():  # first: torch.compile follows nothing after it
        return True
    return _frame_callback() is not None


def is_plain() -> bool:
    """Whether operations are just run: nothing traces, transforms or intercepts them."""
    return (
        not is_observed()
        and _dispatch_modes() == 0
        and _function_modes() == 0
        and _transforms() is None
        and forward_ad._current_level < 0
        and _jit_trace() is None
    )


def layout_of(tensor: object) -> Layout | None:
    """What a prepared call may depend on in a tensor; None for all but dense tensors with plain memory."""
    if type(tensor) not in _KINDS:
        return None
    assert isinstance(tensor, Tensor)
    if tensor.layout is not _DENSE or tensor.is_nested or tensor.is_neg():
        return None
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # it stands for tensors that torch transforms
        return None
    if not address:  # it is empty, or holds no data
        return None
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, address % ALIGNMENT


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """A call on tensors of one layout with all that stays the same; give it the tensors."""

    text: str
    parameters: tuple[int, ...]
    scale: float
    tiles: tuple[int, int]
    backend: str
    refine: bool
    deterministic: bool
    device: str
    forward: Forward
    largest_and_sums: Callable[..., tuple[Tensor, Tensor]]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, if it is asked for, its lse; differentiable once."""
        if _is_profiled():
            with torch.profiler.record_function("attncc::forward"):
                return self._run_uncast(q, k, v, captures, with_lse)
        return self._run_uncast(q, k, v, captures, with_lse)

    def _run_uncast(
        self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        if torch.is_autocast_enabled(self.device):
            with torch.autocast(self.device, enabled=False):
                return self._run(q, k, v, captures, with_lse)
        return self._run(q, k, v, captures, with_lse)

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], with_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled() and (
            q.requires_grad or k.requires_grad or v.requires_grad or any(tensor.requires_grad for tensor in captures)
        ):
            found = AttnccAttention.apply(self, with_lse, q, k, v, *captures)  # type: ignore[no-untyped-call]  # torch's
            return found if with_lse else (found, None)
        with torch._C._AutoDispatchBelowAutograd():
            out, lse, _ = self.forward(q, k, v, captures, with_lse)
        return out, lse

    def differentiate(self, ctx: Any, grad_out: Tensor, grad_lse: Tensor | None) -> list[Tensor | None]:
        """Gradients of q, k, v and the captures, None where none is needed."""
        q, k, v, out, *rest = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 5
        captures, kept = rest[:count], rest[count:]
        asked = ctx.needs_input_grad[2:]
        can = op._differentiable(self.text, captures)
        wanted = [*asked[:3], *(a and b for a, b in zip(asked[3:], can, strict=True))]
        if not any(wanted):
            return [None] * len(wanted)
        largest, sums = self.largest_and_sums(*kept)
        if grad_lse is None:
            grad_lse = torch.zeros(largest.shape, dtype=largest.dtype, device=largest.device)
        plain = is_plain() and not torch.is_grad_enabled() and layout_of(grad_out) and layout_of(grad_lse)
        run = op._backward if plain else torch.ops.attncc.backward
        tensors = (grad_out, grad_lse, q, k, v, out, largest, sums, captures)
        rest = (
            list(self.parameters),
            self.scale,
            self.text,
            *self.tiles,
            self.backend,
            self.refine,
            self.deterministic,
        )
        found = iter(run(*tensors, *rest, wanted))
        return [next(found) if want else None for want in wanted]


class AttnccAttention(torch.autograd.Function):
    """How autograd joins the passes; the same as the registered operator's."""

    @staticmethod
    def forward(
        ctx: Any, attention: Attention, with_lse: bool, q: Tensor, k: Tensor, v: Tensor, *captures: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            out, lse, kept = attention.forward(q, k, v, captures, with_lse)
        ctx.attention = attention
        ctx.save_for_backward(q, k, v, out, *captures, *kept)
        return out if lse is None else (out, lse)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor | None = None) -> tuple[Any, ...]:
        return (None, None, *ctx.attention.differentiate(ctx, grad_out, grad_lse))


def prepare(
    text: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor],
    parameters: Sequence[int],
    *,
    scale: float,
    tile_q: int = 0,
    tile_kv: int = 0,
    check_bounds: bool = True,
    backend: str = "torch",
    refine: bool = False,
    deterministic: bool = False,
) -> Attention | None:
    """A call on tensors laid out like these, its kernels built; None where only the operator serves."""
    if op._is_empty(q, k):
        return None
    tiles, given = (tile_q, tile_kv), tuple(parameters)
    form = (text, given, scale, tiles, backend, refine, deterministic, q.device.type)
    kernel = op._kernel(text, (q, k, v, *captures), given, tiles, backend, None, refine)
    if backend == "triton":
        kernels = getattr(kernel, "__self__", None)
        if not isinstance(kernels, TritonPass):
            raise InternalError("a Triton kernel is not the forward method of its pass")
        if check_bounds and op.may_read_outside(kernel):
            return None
        begin_backward(text, (q, k, v, *captures), given, tiles, refine, deterministic, kernels.kind_of(q, k, v))
        prepared = prepare_forward(kernels, q, k, v, captures, given, scale)
        return None if prepared is None else Attention(*form, prepared, prepared.largest_and_sums)

    def forward(
        q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], with_lse: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        out, lse, *kept = kernel(q, k, v, captures, given, scale, check_bounds)
        return out, lse if with_lse else None, tuple(kept)

    return Attention(*form, forward, lambda *kept: kept)

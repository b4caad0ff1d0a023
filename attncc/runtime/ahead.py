"""The backward pass of a first call, compiled beside its forward pass.

Triton's compiler releases Python's lock for most of its work, so that a call whose gradients are wanted waits for the
slowest kernel of both passes, not for one pass after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor

from attncc.runtime import op, triton_build
from attncc.runtime.recall import memory_of
from attncc.schedule.target import Gradients, Problem, Target

MAX_BEGUN: Final = 4096
#: What was begun in this process; calls of other lengths share kernels, or compile theirs when they need them.
_BEGUN: set[Hashable] = set()


def begin_backward(
    text: str,
    tensors: Sequence[Tensor],
    parameters: Sequence[int],
    tiles: tuple[int, int],
    refine: bool,
    deterministic: bool,
    kind: tuple[bool, bool],
) -> threading.Thread | None:
    """Begin to compile the Triton kernels of a call's backward pass, if its gradients will be wanted.

    `kind` says whether the call's tensors are aligned, and wide. What goes wrong here goes wrong again, and is raised,
    where the backward pass is called. A program that ends waits for its compiler.
    """
    wanted = tuple(tensor.requires_grad for tensor in tensors)
    if not torch.is_grad_enabled() or not any(wanted) or triton_build.compile_refusal() is not None:
        return None
    q, k, v, *captures = tensors
    sizes = (q.shape[1], k.shape[1], q.shape[3], v.shape[3])
    key = (text, q.dtype, q.device, sizes, wanted, tiles, refine, kind, op.wants_tf32(q.dtype), deterministic)
    if key in _BEGUN or (q.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    if len(_BEGUN) >= MAX_BEGUN:
        _BEGUN.clear()
    _BEGUN.add(key)
    of_captures = zip(wanted[3:], op._differentiable(text, captures), strict=True)
    gradients = Gradients(wanted[0], wanted[1], wanted[2], tuple(a and b for a, b in of_captures))
    if not (gradients.of_scores or gradients.v):
        return None
    target, device = op.target_of("triton", q.device), q.device
    more = op.takes_tf32(target, q.dtype), deterministic and target.gluon
    problem = op.problem_of(tensors, parameters, gradients, *tiles, refine, *more)
    memory = memory_of(text, problem, target, device)
    if memory is not None and memory.knows(*kind):
        return None
    given = text, problem, target, kind, device
    (thread := threading.Thread(target=_compile, args=given, name="attncc-backward")).start()
    return thread


def _compile(text: str, problem: Problem, target: Target, kind: tuple[bool, bool], device: torch.device) -> None:
    """Compile a backward pass; an error is left to whoever calls it."""
    from attncc.runtime.triton_fit import settle  # late: what is known needs no choice of schedules

    with suppress(Exception):
        settle(op._lower(text, problem, target).triton_backward(*kind), device)

"""One checked call, and the two ways to run it: compiled, or as the dense reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attncc.api.inputs import Inputs
from attncc.api.options import Options
from attncc.api.program import Program, Reading
from attncc.api.values import check_capture_devices, check_captures, check_parameters
from attncc.errors import UnsupportedError
from attncc.runtime import eager, op, triton_build, triton_version
from attncc.schedule.target import Gradients, Problem, Target
from attncc.schedule.triton import MAX_HEAD_DIM

if TYPE_CHECKING:  # a call whose kernels are in the cache needs no compiler
    from attncc import pipeline

#: Lengths and sizes up to which kernels count in 32 bits.
MAX_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that one call of a variant consists of; captures and parameters stand in the spec's order."""

    program: Program
    inputs: Inputs
    captures: tuple[Tensor, ...]
    parameters: tuple[int, ...]
    options: Options

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v and the captured tensors."""
        return (self.inputs.q, self.inputs.k, self.inputs.v, *self.captures)


def make_call(reading: Reading, inputs: Inputs, options: Options) -> Call:
    """A call on checked inputs, with what the variant captures. Raises InputError for captures that do not fit them."""
    spec = reading.program.spec
    batch, heads, q_len, _ = inputs.q.shape
    sizes = {"batch": batch, "heads": heads, "q_len": q_len, "kv_len": inputs.k.shape[2]}
    captures = check_captures(spec, reading.captures, sizes)
    program, captures = reading.program, check_capture_devices(spec, captures, inputs.q.device)
    runs = options.backend != "reference" and inputs.q.numel() and inputs.k.numel()
    if runs and any(0 in tensor.shape for tensor in captures):
        from attncc.api.empty import without_empty  # late: it is rarely needed

        program, captures = without_empty(program, captures)
    return Call(program, inputs, captures, check_parameters(spec, reading.parameters), options)


def run(call: Call) -> tuple[Tensor, Tensor]:
    """The output and its lse."""
    inputs, options = call.inputs, call.options
    _refuse(call)
    if options.backend == "reference":
        from attncc.reference import reference  # late: only those who ask for it need it

        spec = call.program.spec
        parameters = {p.name: value for p, value in zip(spec.parameters, call.parameters, strict=True)}
        tensors = (inputs.q, inputs.k, inputs.v, call.captures, parameters)
        check = options.checks_bounds(inputs.q.device.type)
        return reference(spec, *tensors, scale=inputs.scale, return_lse=True, check_bounds=check)
    return op.attend(
        call.program.text,
        inputs.q,
        inputs.k,
        inputs.v,
        call.captures,
        call.parameters,
        scale=inputs.scale,
        tile_q=options.block_m or 0,
        tile_kv=options.block_n or 0,
        check_bounds=options.checks_bounds(inputs.q.device.type),
        backend=backend_of(call),
        refine=options.refine,
        deterministic=options.is_deterministic,
    )


def run_with_largest(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The output, its lse, and the largest score of each row, which has no gradient."""
    inputs, options = call.inputs, call.options
    rest = (list(call.captures), list(call.parameters), inputs.scale, call.program.text, 0, 0, backend_of(call), False)
    more = options.is_deterministic, options.checks_bounds(inputs.q.device.type)
    out, lse, _, sums = torch.ops.attncc.forward(inputs.q, inputs.k, inputs.v, *rest, *more)
    # lse = largest + log(sum of exp(score - largest)), in whichever base the kernels count
    return out, lse, torch.where(sums == 0, lse, lse - sums.log()).detach()


def prepare(call: Call) -> eager.Attention | None:
    """What runs this call, and others like it, in plain eager PyTorch; None where only `run` does."""
    inputs, options = call.inputs, call.options
    _refuse(call)
    if options.backend == "reference":
        return None
    return eager.prepare(
        call.program.text,
        inputs.q,
        inputs.k,
        inputs.v,
        call.captures,
        call.parameters,
        scale=inputs.scale,
        tile_q=options.block_m or 0,
        tile_kv=options.block_n or 0,
        check_bounds=options.checks_bounds(inputs.q.device.type),
        backend=backend_of(call),
        refine=options.refine,
        deterministic=options.is_deterministic,
    )


def _refuse(call: Call) -> None:
    if call.options.backend == "triton" and (reason := triton_refusal(call.tensors)) is not None:
        raise UnsupportedError(f"the Triton back end cannot run this: {reason}", hint='use backend="torch"')


def backend_of(call: Call) -> str:
    """The back end that runs a call: the one asked for, otherwise Triton on a GPU, and torch anywhere else."""
    if call.options.backend != "auto":
        return call.options.backend
    return "triton" if call.inputs.q.is_cuda and triton_refusal(call.tensors) is None else "torch"


def triton_refusal(tensors: Sequence[Tensor]) -> str | None:
    """Why the Triton back end cannot take these tensors (q, k, v, captures), or None."""
    q, _, v, *captures = tensors
    if q.dtype == torch.float64:
        return "it has no float64 products"
    if max(q.shape[3], v.shape[3]) > MAX_HEAD_DIM:
        return f"its kernels hold heads of at most {MAX_HEAD_DIM}"
    if any(max(capture.shape, default=0) > MAX_SIZE for capture in captures) or q.shape[2] > MAX_SIZE:
        return f"it counts positions up to {MAX_SIZE}"
    if q.device.type == "cpu" and not triton_version.interprets():
        return "on the CPU it needs Triton's interpreter: set TRITON_INTERPRET=1 before anything imports triton"
    return triton_build.available() if q.is_cuda else None


def lowered(call: Call) -> pipeline.Lowered:
    """What the compiler makes of a call. Where nothing needs a gradient the backward pass is for all that could."""
    forward = _lower(call, None)
    wanted = [tensor.requires_grad for tensor in call.tensors]
    if not any(wanted):
        wanted = [tensor.is_floating_point() for tensor in call.tensors]
    captures = tuple(a and b for a, b in zip(wanted[3:], forward.differentiable, strict=True))
    gradients = Gradients(wanted[0], wanted[1], wanted[2], captures)
    return _lower(call, gradients) if any((*wanted[:3], *captures)) else forward


def _lower(call: Call, gradients: Gradients | None) -> pipeline.Lowered:
    from attncc.pipeline import lower  # late: a call whose kernels are in the cache needs no compiler

    return lower(call.program.spec, *posed(call, gradients))


def posed(call: Call, gradients: Gradients | None) -> tuple[Problem, Target]:
    """The problem of a pass as a call poses it, and its target."""
    tiles = (call.options.block_m or 0, call.options.block_n or 0)
    target = op.target_of(backend_of(call), call.inputs.q.device)
    deterministic = call.options.is_deterministic and target.gluon and gradients is not None
    more = op.takes_tf32(target, call.inputs.q.dtype), deterministic
    return op.problem_of(call.tensors, call.parameters, gradients, *tiles, call.options.refine, *more), target

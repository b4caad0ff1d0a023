"""One checked call, and the two ways to run it: compiled, or as the dense reference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attncc import pipeline
from attncc.api.inputs import Inputs
from attncc.api.options import Options
from attncc.api.program import Program, Reading
from attncc.api.values import check_capture_devices, check_captures, check_parameters
from attncc.reference import reference
from attncc.runtime import op
from attncc.schedule import Gradients, Target


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
    captures = check_capture_devices(spec, captures, inputs.q.device)
    return Call(reading.program, inputs, captures, check_parameters(spec, reading.parameters), options)


def run(call: Call) -> tuple[Tensor, Tensor]:
    """The output and its lse."""
    inputs, options = call.inputs, call.options
    if options.backend == "reference":
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
    )


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
    tiles = (call.options.block_m or 0, call.options.block_n or 0)
    problem = op.problem_of(call.tensors, call.parameters, gradients, *tiles)
    return pipeline.lower(call.program.spec, problem, Target("torch", call.inputs.q.device.type))

"""One checked call, and the two ways to run it: compiled, or as the dense reference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attncc import pipeline
from attncc.api.inputs import Inputs
from attncc.api.options import Options
from attncc.api.program import Program
from attncc.reference import reference
from attncc.runtime import op
from attncc.schedule import Gradients, Problem, Target


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


def run(call: Call) -> tuple[Tensor, Tensor]:
    """The output and its lse."""
    inputs, options = call.inputs, call.options
    if options.backend == "reference":
        spec = call.program.spec
        parameters = {p.name: value for p, value in zip(spec.parameters, call.parameters, strict=True)}
        return reference(  # type: ignore[return-value]  # with return_lse it is a pair
            spec, inputs.q, inputs.k, inputs.v, call.captures, parameters, scale=inputs.scale, return_lse=True
        )
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
    return pipeline.lower(call.program.spec, _problem(call), Target("torch", call.inputs.q.device.type))


def _problem(call: Call) -> Problem:
    q, k, v, *captures = call.tensors
    wanted = [tensor.requires_grad for tensor in call.tensors]
    if not any(wanted):
        wanted = [tensor.is_floating_point() for tensor in call.tensors]
    return Problem(
        dtype=_name(q),
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        capture_dtypes=tuple(map(_name, captures)),
        gradients=Gradients(wanted[0], wanted[1], wanted[2], tuple(wanted[3:])),
        tile_q=call.options.block_m,
        tile_kv=call.options.block_n,
    )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

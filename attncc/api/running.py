"""The Triton kernels of a call as they run: under the schedules that were settled when they were built.

A kernel that is not built yet may still give way to another choice: whether its values fit into registers is known from
compiling alone. What is shown of such a kernel says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attncc import pipeline
from attncc.api.lowering import Call, posed
from attncc.emit.triton.program import TritonProgram
from attncc.runtime import op
from attncc.runtime.recall import memory_of
from attncc.runtime.triton_attention import TritonPass
from attncc.runtime.triton_values import aligned, wide
from attncc.runtime.tuned import with_winners

UNBUILT = "not built yet: a kernel that spills registers on this GPU gives way to the next choice"


@dataclass(frozen=True, slots=True)
class Running:
    """The kernels of one pass, and whether they are built, so that these are the ones that run."""

    program: TritonProgram
    built: bool

    @property
    def text(self) -> str:
        """The kernels, to be read."""
        text = self.program.source.text.rstrip("\n")
        return text if self.built else f"# {UNBUILT}\n{text}"

    @property
    def reasons(self) -> list[str]:
        """Why each pass runs as it does, by the name of the pass where there are several."""
        found = [(name, each.schedule.reasons) for name, each in self.program.passes.items() if name != "prepare"]
        named = [f"{name}: {reason}" for name, reasons in found for reason in reasons]
        return named if self.built else [*named, UNBUILT]


def running(call: Call, found: pipeline.Lowered) -> tuple[Running, ...]:
    """The kernels of the forward pass, and of the backward pass if it has one; none on other back ends than Triton."""
    if found.triton_forward is None:
        return ()
    passes = (found.triton_forward, found.triton_backward)
    return tuple(_running(programs, call) for programs in passes if programs is not None)


def _running(programs: pipeline.TritonPrograms, call: Call) -> Running:
    device = call.inputs.q.device
    kind = aligned(*call.tensors[:3]), wide(*call.tensors[:3])
    known = _recalled(programs, call) or op._PASSES.get((id(_as_called(programs, call)), device))
    loaded = None if known is None else known.loaded.get(kind)
    if loaded is not None:
        return Running(loaded.program, built=True)
    program = programs(*kind)
    tuned = with_winners(program, torch.cuda.get_device_name(device)) if device.type == "cuda" else program
    return Running(tuned, built=False)


def _recalled(programs: pipeline.TritonPrograms, call: Call) -> TritonPass | None:
    """The pass that calls run through where the cache knew it, so that nothing was lowered."""
    problem, target = posed(call, programs.variant.problem.gradients)
    memory = memory_of(call.program.text, problem, target, call.inputs.q.device)
    head = None if memory is None else memory.head()
    return None if head is None else op._PASSES.get((head.key, call.inputs.q.device))


def _as_called(programs: pipeline.TritonPrograms, call: Call) -> pipeline.TritonPrograms | None:
    """The same programs as calls find them, by the text of the variant."""
    problem, target = programs.variant.problem, op.target_of("triton", call.inputs.q.device)
    found = pipeline.lower_text(call.program.text, problem, target)
    return found.triton_forward if problem.gradients is None else found.triton_backward

"""How torch's operators find the compiler, and what tries new kernels; neither is loaded before it is needed.

A process whose kernels are all in the cache needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from attncc.api.tested import needs_test
from attncc.runtime import op
from attncc.runtime.lowered import Lowered
from attncc.runtime.triton_attention import Loaded, TritonPass
from attncc.schedule.target import Problem, Target

if TYPE_CHECKING:  # as above
    from attncc.emit.triton.program import TritonProgram


def install() -> None:
    """Hand the compiler over to the operators: neither may import the other."""
    op.install(_lower, _test, _foresee)


def _lower(text: str, problem: Problem, target: Target) -> Lowered:
    from attncc.pipeline import lower_text  # late: it loads analysis and templates

    return lower_text(text, problem, target)


def _test(
    text: str,
    kernels: TritonPass,
    loaded: Loaded,
    tensors: Sequence[Tensor],
    captures: Sequence[Tensor],
    parameters: Sequence[int],
) -> None:
    """Try the kernels of a pass, unless that is known to have gone well."""
    if needs_test(loaded, tensors[0].device):
        from attncc.api.self_test import check  # late, as above
        from attncc.pipeline import spec_of  # late, as above

        check(spec_of(text), kernels, loaded, tensors, captures, parameters)


def _foresee(program: TritonProgram, device: str) -> None:
    from attncc.api.apart import foresee  # late: what begins to be compiled has loaded the compiler

    foresee(program, device)

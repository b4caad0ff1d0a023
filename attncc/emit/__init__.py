"""Text out: plans of kernels and their rendering through templates. Imports neither torch nor triton."""

from attncc.emit.gradients import Derivatives, differentiable
from attncc.emit.plan import KernelPlan, plan
from attncc.emit.render import KernelSource, docstring, render
from attncc.emit.tiles import reads_of, render_tile_test

__all__ = [
    "Derivatives",
    "KernelPlan",
    "KernelSource",
    "differentiable",
    "docstring",
    "plan",
    "reads_of",
    "render",
    "render_tile_test",
]

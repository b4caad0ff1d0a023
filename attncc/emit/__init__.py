"""Text out: plans of kernels and their rendering through templates. Imports neither torch nor triton."""

from attncc.emit.gradients import Derivatives, differentiable
from attncc.emit.plan import KernelPlan, plan
from attncc.emit.render import KernelSource, docstring, render

__all__ = ["Derivatives", "KernelPlan", "KernelSource", "differentiable", "docstring", "plan", "render"]

"""What the compiler gives to whatever runs it, as far as it matters there."""

from __future__ import annotations

from typing import Any, Protocol


class Lowered(Protocol):
    """A spec with the kernels that were made of it."""

    @property
    def spec(self) -> Any:
        """The spec, as it was given."""

    @property
    def forward(self) -> Any:
        """The source of the forward kernel."""

    @property
    def backward(self) -> Any:
        """The source of the backward kernel, if gradients were asked for."""

    @property
    def triton_forward(self) -> Any:
        """The Triton kernels of the forward pass, if they are asked for."""

    @property
    def triton_backward(self) -> Any:
        """The Triton kernels of the backward pass, if they are asked for."""

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """For each capture, whether it can have a gradient."""

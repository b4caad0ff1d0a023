"""One kernel to build: the text that holds it, its entry function, and everything else that its binary depends on.

A `TritonKernel` is a plain value: it is made without Triton, pickled to the processes that compile, and hashed into the
key of the cache. It promises what a kernel is specialised on; whoever launches it keeps the promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CONSTANT = "constexpr"

#: What an option or a constant of a kernel may be.
Setting = int | float | bool | str | None


class SourceText(Protocol):
    """What a kernel needs of a rendered source: its name, its text, and the digest of the program in it."""

    @property
    def name(self) -> str:
        """For people, and for the file name in messages."""

    @property
    def text(self) -> str:
        """A module of definitions."""

    @property
    def digest(self) -> str:
        """Equal for equal programs, whatever their names and comments."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of an entry function: its Triton type (`*bf16`, `i32`, `fp32`, `constexpr`) and what is known of it.

    `divisible` promises that the address (in bytes) or the integer is a multiple of 16; `value` is a constexpr's.
    """

    name: str
    type: str
    divisible: bool = False
    value: Setting = None

    @property
    def is_constant(self) -> bool:
        """Whether it is compiled in rather than passed."""
        return self.type == CONSTANT


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """One entry function of a source with all its parameters in order; `options` are further options of Triton."""

    source: SourceText
    entry: str
    arguments: tuple[Argument, ...]
    num_warps: int = 4
    num_stages: int = 2
    options: tuple[tuple[str, Setting], ...] = ()
    gluon: bool = False

    @property
    def run_time(self) -> tuple[Argument, ...]:
        """The arguments that a launch passes."""
        return tuple(argument for argument in self.arguments if not argument.is_constant)

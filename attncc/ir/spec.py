"""The waist of the compiler: what one attention variant means.

Two front ends make an `AttentionSpec`, one printer shows it, one reference gives its meaning, one pipeline lowers it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from attncc.ir.expr import SCORE, TRUE, Expr, Scalar
from attncc.source import Span

#: What a dimension of a captured tensor may be called to have its size checked in each call; `_` is any size.
NAMED_DIMS = ("batch", "heads", "q_len", "kv_len")
ANY_DIM = "_"


class Normalizer(enum.Enum):
    """What turns a row of scores into weights."""

    SOFTMAX = "softmax"


@dataclass(frozen=True, slots=True)
class Capture:
    """A tensor from the user's surroundings. `dims` are sizes, names of sizes (`NAMED_DIMS`) or `_`; () is 0-d."""

    name: str
    scalar: Scalar
    dims: tuple[str | int, ...]

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.dims)


@dataclass(frozen=True, slots=True)
class Parameter:
    """An integer that a call may change without a new kernel; `value` is used where a call does not."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an expression was written, and the name that its author gave it."""

    span: Span | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """softmax(score) over the pairs where mask holds, times v.

    `score` is Float and `mask` Bool, both over `attncc.ir.INPUTS`, captures and parameters. `captures` and `parameters`
    stand in the order in which calls receive them. `name` and `origins` serve readers and take no part in equality.
    """

    name: str = field(default="attention", compare=False)
    score: Expr = SCORE
    mask: Expr = TRUE
    normalizer: Normalizer = Normalizer.SOFTMAX
    captures: tuple[Capture, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    origins: Mapping[Expr, Origin] = field(default_factory=dict, compare=False, repr=False)

    def capture(self, name: str) -> Capture:
        """The captured tensor of this name; KeyError if there is none."""
        for capture in self.captures:
            if capture.name == name:
                return capture
        raise KeyError(name)

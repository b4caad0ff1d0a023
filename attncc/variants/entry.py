"""One variant of the gallery: its score, its mask, and how to make both with example data for any problem."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from torch import Generator, Tensor

from attncc.variants import examples
from attncc.variants.define import Mask, Mod, Score
from attncc.variants.examples import Example, Sizes

#: What decides which tiles are skipped: nothing, closed forms of positions, or captured tensors as well.
Tiles = Literal["dense", "bands", "tabulated"]

M = TypeVar("M", bound=Mod)

#: Parameters for a sequence of a given length, smaller than the defaults.
Small = Callable[[int], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One variant. `score` and `mask` are a `Score` and a `Mask`, or the functions that make them, or None.

    `small` gives parameters that suit short sequences. Where `cached` holds, `prefix` keys stand before the queries'.
    """

    name: str
    family: str
    tiles: Tiles
    score: Score | Callable[..., Score] | None = None
    mask: Mask | Callable[..., Mask] | None = None
    example: Example = examples.none
    small: Small = field(default=lambda length: {})
    cached: bool = False

    @property
    def defaults(self) -> dict[str, int]:
        """The parameters, with the values that stand in the definition."""
        return {
            name: parameter.default
            for part in (self.score, self.mask)
            if part is not None and not isinstance(part, Mod)
            for name, parameter in inspect.signature(part).parameters.items()
            if isinstance(parameter.default, int)
        }

    def sizes(self, length: int, batch: int = 2, heads: int = 4, parameters: Mapping[str, int] | None = None) -> Sizes:
        """A problem with `length` queries; its parameters are the small ones unless given."""
        chosen = self.defaults | (self.small(length) if parameters is None else dict(parameters))
        return Sizes(batch, heads, length, length + (chosen["prefix"] if self.cached else 0), chosen)

    def captures(self, sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
        """Example captures; the same for the same sizes and seed."""
        return self.example(sizes, Generator().manual_seed(seed))

    def make(self, parameters: Mapping[str, Any], captures: Mapping[str, Tensor]) -> tuple[Score | None, Mask | None]:
        """The score and the mask with these values."""
        values = {**parameters, **captures}
        return _made(self.score, values), _made(self.mask, values)

    def at(self, sizes: Sizes, seed: int = 0) -> tuple[Score | None, Mask | None]:
        """The score and the mask with example captures."""
        return self.make(sizes.parameters, self.captures(sizes, seed))

    @property
    def parts(self) -> tuple[Score | Mask, ...]:
        """The score and the mask, whichever there are, with example captures and default parameters."""
        return tuple(part for part in self.at(self.sizes(16, parameters=self.defaults)) if part is not None)

    @property
    def formula(self) -> str:
        """The formulas of its parts."""
        return "; ".join(part.formula for part in self.parts)

    @property
    def citation(self) -> str:
        """Where the variant comes from."""
        return "; ".join(dict.fromkeys(part.citation for part in self.parts))


def _made(part: M | Callable[..., M] | None, values: Mapping[str, Any]) -> M | None:
    if part is None or isinstance(part, Mod):
        return part  # type: ignore[return-value]  # what is no factory is the object itself
    wanted = inspect.signature(part).parameters
    return part(**{name: values[name] for name in wanted if name in values})


def fixed(**parameters: int) -> Small:
    """The same parameters at every length."""
    return lambda length: parameters


def canvas(width: int, **parameters: int) -> Small:
    """Parameters with a canvas that is `width` wide and as high as the length needs, at least 8."""
    return lambda length: {"height": max(-(-length // width), 8), "width": width, **parameters}


def line(window: int, dilation: int = 1) -> Small:
    """A line as long as the sequence, and long enough for the window."""
    spread = {"dilation": dilation} if dilation > 1 else {}
    return lambda length: {"length": max(length, window * dilation), "window": window, **spread}

"""From a command line to a variant with everything that it captures: what `explain` and `plot` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attncc.commands.arguments import read_pairs, read_params
from attncc.commands.definition import read_definition
from attncc.commands.tensors import example_captures, read_tensor
from attncc.commands.terminal import note

if TYPE_CHECKING:
    from attncc.api import Variant


@dataclass(frozen=True, slots=True)
class Prepared:
    """A variant that needs nothing more; `invented` names the captured tensors that are example data."""

    variant: Variant
    invented: tuple[str, ...]


def prepare(
    target: str,
    captures: list[str] | None,
    params: list[str] | None,
    sizes: Mapping[str, int],
    seed: int,
    device: str = "cpu",
) -> Prepared:
    """The variant of a target with the captured tensors and parameters of the command line; says what it invents."""
    definition = read_definition(target, read_params(params))
    variant, spec = definition.variant(), definition.spec
    given = {name: read_tensor(name, text).to(device) for name, text in read_pairs(captures, "--capture").items()}
    variant = variant.bind(**given)
    if definition.is_python:  # it captures tensors by itself
        return Prepared(variant, ())
    invented = example_captures(spec, sizes, given, seed, device)
    if invented:
        shown = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in invented.items())
        note(f"example data, seed {seed}: {shown}; --capture NAME=FILE brings your own")
    return Prepared(variant.bind(**invented), tuple(invented))

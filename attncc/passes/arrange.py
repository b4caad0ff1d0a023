"""The order of a spec's parameters: the same for every author of the same variant, whatever names it gives them.

A parameter's place follows from what the mask and the score do with it, in their simplest form with the other
parameters taken for one another. What only looks the same keeps the declared order. Kernels take their parameters in
this order, so that two variants that differ in it and in names share their kernels.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.errors import LanguageError
from attncc.ir import AttentionSpec
from attncc.ir.verify import verify
from attncc.passes.lift import lift
from attncc.passes.order import digest
from attncc.passes.simplify import simplify


def arrange(spec: AttentionSpec) -> AttentionSpec:
    """The spec with its parameters in their one order."""
    if len(spec.parameters) < 2:
        return spec
    try:
        verify(spec)
        lifted = lift(spec)
    except LanguageError:  # it cannot be lowered: its first call says why
        return spec
    roots = simplify(lifted.mask), simplify(lifted.score)
    places = {p.name: tuple(digest(root, spec, p.name) for root in roots) for p in spec.parameters}
    return replace(spec, parameters=tuple(sorted(spec.parameters, key=lambda p: places[p.name])))

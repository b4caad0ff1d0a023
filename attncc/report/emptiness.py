"""The warning that a mask hides every key from every query, with the reason and a row that shows it."""

from __future__ import annotations

from attncc.analysis.algebra import Standing, is_empty
from attncc.ir import TRUE, AttentionSpec, const, param, substitute

#: Pairs that are looked at before a mask without a proof is taken for empty.
TRIES = 4000


def warn_of_emptiness(spec: AttentionSpec) -> str | None:
    """The warning for a canonical spec whose mask shows no pair, with its parameters as they are; None otherwise."""
    if spec.mask is TRUE:
        return None
    given = {param(p.name): const(p.value) for p in spec.parameters}
    if is_empty(spec.mask, TRIES).standing is Standing.PROVEN:
        return f"{_WARNING} of any size is hidden; attention is 0 everywhere"
    answer = is_empty(substitute(spec.mask, given), TRIES)
    if not answer.holds:
        return None
    values = ", ".join(f"{p.name} = {p.value}" for p in spec.parameters)
    sure = "proven" if answer.standing is Standing.PROVEN else f"tested on {TRIES:,} pairs, not proven"
    return f"{_WARNING} is hidden{f' with {values}' if values else ''} ({sure}); attention is 0 everywhere"


_WARNING = "no row of this mask has a key: for example, every key of b = 0, h = 0, q_idx = 0"

"""A loop in which each step begins a product of the next: the matrix units work while weights are made.

The product's result goes from step to step. Triton waits for a product where its result is used in the same step, and
with it for all that were begun before; what is begun behind that wait runs on beside the softmax.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attncc.emit.triton.visits import Visits, Walk

Lines = Sequence[str]


def begins_ahead(
    tiles: Visits, walked: Walk, inside: Mapping[str, Lines], guarded: Mapping[str, Lines]
) -> dict[str, Lines | bool]:
    """What a template is told of a loop over tiles that are visible as a whole: where the tiles beside a step's start,
    and the loads of them. `inside` are the loads of a step, `guarded` those that may reach past the end.

    Behind the loop the tile before is one past the end where no step was taken: what is loaded of it is 0.
    """
    found = tiles.neighbours(walked, masked=False)
    own = tiles.steps(walked, masked=False)
    taken = f"before_start = tl.where({tiles.full_count} > 0, before_start, {walked.length})"
    return {
        "ahead": True,
        "setup": (*own["setup"], *found["setup"]),
        "first": found["first"],
        "next": found["next"],
        "before": found["before"],
        "last": (*found["last"], taken),
        **{f"first_{name}": _of("next_row", guarded[f"load_{name}"]) for name in ("k", "v", "do")},
        **{f"next_{name}": _of("next_row", inside[f"load_{name}"]) for name in ("k", "v", "do")},
        "before_v": _of("before_row", inside["load_v"]),
        "last_v": _of("before_row", guarded["load_v"]),
    }


def _of(row: str, lines: Lines) -> Lines:
    """Loads of the rows of another tile."""
    return [re.sub(r"\b(kv|q)_row\b", row, line).replace("do_tile =", "next_do_tile =") for line in lines]

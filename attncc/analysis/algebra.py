"""Masks compared with each other: equality, subsumption, emptiness, each proven, refuted with a pair, or only tested.

A proof covers all lengths, batches, heads and values of parameters. A witness is one pair, with sizes and parameters
as small as the search could find.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from attncc.analysis.canonical import canonical_condition
from attncc.analysis.certificate import pretended
from attncc.analysis.compiled import function_of, names_of
from attncc.analysis.satisfy import draw_numbers, prove_never
from attncc.analysis.shape import reads_captures
from attncc.ir import FALSE, TRUE, Expr, Op, apply

#: Random pairs that a search looks at.
TRIES = 30_000


class Standing(enum.Enum):
    """How sure an answer is."""

    PROVEN = "proven"
    TESTED = "tested"
    REFUTED = "refuted"


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a statement about masks holds. `witness` names the numbers that refute it; `seed` made the captures."""

    standing: Standing
    witness: dict[str, int] | None = None
    seed: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the statement was not refuted."""
        return self.standing is not Standing.REFUTED

    def __bool__(self) -> bool:
        return self.holds


def never(condition: Expr, tries: int = TRIES) -> Answer:
    """Whether a condition holds for no pair at all."""
    if canonical_condition(condition) is FALSE or prove_never(condition) is not None:
        return Answer(Standing.PROVEN)
    witness = _witness(condition, tries)
    return Answer(Standing.TESTED) if witness is None else Answer(Standing.REFUTED, *witness)


def is_empty(mask: Expr, tries: int = TRIES) -> Answer:
    """Whether a mask shows no pair: attention over nothing. The witness of a refutation is a visible pair."""
    return never(mask, tries)


def subsumes(larger: Expr, smaller: Expr, tries: int = TRIES) -> Answer:
    """Whether every pair of `smaller` is a pair of `larger`."""
    return never(apply(Op.AND, smaller, apply(Op.NOT, larger)), tries)


def equivalent(a: Expr, b: Expr, tries: int = TRIES) -> Answer:
    """Whether two masks show the same pairs in every call; parameters and captures of one name are the same."""
    if canonical_condition(a) is canonical_condition(b):
        return Answer(Standing.PROVEN)
    answers = [subsumes(a, b, tries), subsumes(b, a, tries)]
    refuted = next((answer for answer in answers if not answer.holds), None)
    if refuted is not None:
        return refuted
    proven = all(answer.standing is Standing.PROVEN for answer in answers)
    return Answer(Standing.PROVEN if proven else Standing.TESTED)


def _witness(condition: Expr, tries: int) -> tuple[dict[str, int], int | None] | None:
    """Numbers with which the condition holds, the smallest of those that a search finds; and the captures' seed."""
    names = names_of(condition)
    holds = function_of([condition], names)
    captured = reads_captures(condition)
    best: tuple[dict[str, int], int | None] | None = None
    left = tries
    for values, seed in draw_numbers(condition, tries):
        load = pretended(condition, seed) if captured else None
        try:
            found = holds(*(values[name] for name in names), load=load)[0]
        except (ZeroDivisionError, OverflowError, ValueError):
            continue
        if found and (best is None or _size(values) < _size(best[0])):
            best, left = (_shown(values, names), seed if captured else None), min(left, 500)
        left -= 1
        if left <= 0:
            break
    return best


def _shown(values: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    pair = ("b", "h", "q_idx", "kv_idx")
    return {name: value for name, value in values.items() if name in names or name in pair}


def _size(values: dict[str, int]) -> int:
    return sum(abs(value) for value in values.values())


def is_everything(mask: Expr) -> Answer:
    """Whether a mask shows every pair."""
    return Answer(Standing.PROVEN) if canonical_condition(mask) is TRUE else never(apply(Op.NOT, mask))

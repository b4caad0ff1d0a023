"""Where two variants differ: a pair that one shows and the other hides, or that they score differently.

Parameters and captured tensors of one name are the same; those that only one side names are matched by their use in the
masks' canonical forms, otherwise in order. An answer holds for all values of the parameters where it can, and for the
values at hand where the two differ in them. Scores are compared where both masks show the pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from attncc.analysis.algebra import Answer, Standing, equivalent
from attncc.analysis.canonical import canonical
from attncc.analysis.certificate import pretended
from attncc.analysis.compiled import function_of, names_of
from attncc.analysis.satisfy import draw_numbers
from attncc.ir import (
    SCORE,
    AttentionSpec,
    Expr,
    Op,
    conjunction,
    const,
    node,
    param,
    postorder,
    substitute,
    with_args,
)

#: Pairs at which two scores are compared.
TRIES: Final = 6000
#: Scores closer than this, relative to the larger, differ only in how float32 rounds.
ROUNDING: Final = 1e-5
#: Scores before the score function that are tried.
SCORES: Final = (0.0, 1.0, -1.0, 0.5, -3.75, 12.0, 88.0, -40.0)

Simplify = Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a variant does with one pair: its score, or None where it is hidden."""

    visible: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """How two variants compare.

    `part` is `mask` or `score` where they differ, and then `witness` has the numbers of a pair, `reads` the captured
    values there, `seen` what each variant does. `general`: for all values of the parameters, not only those at hand.
    """

    standing: Standing
    general: bool
    part: str | None = None
    witness: Mapping[str, Any] | None = None
    reads: Mapping[str, Any] | None = None
    seen: tuple[Seen, Seen] | None = None

    @property
    def equal(self) -> bool:
        """Whether no difference was found."""
        return self.standing is not Standing.REFUTED


def compare(a: AttentionSpec, b: AttentionSpec, simplify: Simplify, tries: int = TRIES) -> Difference:
    """The difference of two canonical specs, whose parameters have the values that stand in them."""
    b = _aligned(a, b)
    mine, theirs = ({p.name: p.value for p in spec.parameters} for spec in (a, b))
    if mine == theirs:
        found = _compare(a, b, True, tries)
        if found.equal or not mine:
            return found
    return _compare(_settled(a, simplify), _settled(b, simplify), not (mine or theirs), tries)


def _compare(a: AttentionSpec, b: AttentionSpec, general: bool, tries: int) -> Difference:
    masks = equivalent(a.mask, b.mask)
    if not masks.holds:
        return _witnessed(a, b, general, "mask", masks)
    scores = _scores(a, b, tries)
    if not scores.holds:
        return _witnessed(a, b, general, "score", scores)
    proven = masks.standing is scores.standing is Standing.PROVEN
    return Difference(Standing.PROVEN if proven else Standing.TESTED, general)


def _scores(a: AttentionSpec, b: AttentionSpec, tries: int) -> Answer:
    """Whether the scores agree at the pairs that both masks show."""
    if a.score is b.score:
        return Answer(Standing.PROVEN)
    best: tuple[float, dict[str, Any], int] | None = None
    look = _looker(a, b)
    for number, (values, seed) in enumerate(draw_numbers(_joint(a, b), tries)):
        values["score"] = SCORES[number % len(SCORES)]  # type: ignore[assignment]  # the one that is no int
        seen = look(values, seed)[0]
        if seen is None or not (seen[0].visible and seen[1].visible) or _close(seen[0].score, seen[1].score):
            continue
        size = sum(abs(value) for value in values.values())
        if best is None or size < best[0]:
            best = size, dict(values), seed
    return Answer(Standing.TESTED) if best is None else Answer(Standing.REFUTED, best[1], best[2])


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None or a == b:
        return a == b
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)


Looked = tuple[tuple[Seen, Seen] | None, dict[str, Any]]


def _looker(a: AttentionSpec, b: AttentionSpec) -> Callable[[Mapping[str, Any], int | None], Looked]:
    """A function of numbers and a seed for captured tensors: what both variants do there, and what they read."""
    roots = (a.mask, b.mask, a.score, b.score)
    names = names_of(*roots)
    functions = [function_of([root], names) for root in roots]

    def look(values: Mapping[str, Any], seed: int | None) -> Looked:
        reads: dict[str, Any] = {}
        pretend = pretended(_joint(a, b), seed or 0)

        def load(name: str, index: tuple[int, ...]) -> Any:
            reads[f"{name}[{', '.join(map(str, index))}]"] = found = pretend(name, index)
            return found

        given = [values.get(name, 0) for name in names]
        try:
            visible = [bool(function(*given, load=load)[0]) for function in functions[:2]]
            shown = [functions[2 + i](*given, load=load)[0] if visible[i] else None for i in range(2)]
        except (ZeroDivisionError, OverflowError, ValueError):
            return None, reads
        # a score of -inf hides its pair
        one, two = (
            Seen(v and s != -math.inf, None if s == -math.inf else s) for v, s in zip(visible, shown, strict=True)
        )
        return (one, two), reads

    return look


def _witnessed(a: AttentionSpec, b: AttentionSpec, general: bool, part: str, answer: Answer) -> Difference:
    assert answer.witness is not None
    values = {"score": 0.0, **answer.witness}
    seen, reads = _looker(a, b)(values, answer.seed)
    names = {"b", "h", "q_idx", "kv_idx", *names_of(a.mask, b.mask)}
    names |= set(names_of(a.score, b.score)) if part == "score" else set()
    return Difference(answer.standing, general, part, {k: v for k, v in values.items() if k in names}, reads, seen)


def _joint(a: AttentionSpec, b: AttentionSpec) -> Expr:
    """One expression that holds all that both variants read."""
    masks = conjunction(a.mask, b.mask)
    return node(Op.WHERE, (masks, a.score, b.score), None, SCORE.scalar)


def _settled(spec: AttentionSpec, simplify: Simplify) -> AttentionSpec:
    """The spec with its parameters' values in their place."""
    values = {param(p.name): const(p.value) for p in spec.parameters}
    score, mask = (simplify(substitute(root, values)) for root in (spec.score, spec.mask))
    return replace(spec, score=score, mask=mask)


def _aligned(a: AttentionSpec, b: AttentionSpec) -> AttentionSpec:
    """The second spec with the names of the first for what only it names."""
    forms = canonical(a.mask), canonical(b.mask)
    alike = forms[0].digest == forms[1].digest
    used = tuple((f.parameters, f.captures) if alike else ((), ()) for f in forms)
    parameters = _matched([p.name for p in a.parameters], [p.name for p in b.parameters], used[0][0], used[1][0])
    kinds = [{c.name: (c.scalar, c.rank) for c in spec.captures} for spec in (a, b)]
    captures = _matched(list(kinds[0]), list(kinds[1]), used[0][1], used[1][1])
    captures = {theirs: mine for theirs, mine in captures.items() if kinds[0][mine] == kinds[1][theirs]}
    if not (parameters or captures):
        return b
    return replace(
        b,
        score=_renamed(b.score, parameters, captures),
        mask=_renamed(b.mask, parameters, captures),
        parameters=tuple(replace(p, name=parameters.get(p.name, p.name)) for p in b.parameters),
        captures=tuple(replace(c, name=captures.get(c.name, c.name)) for c in b.captures),
    )


def _matched(mine: list[str], theirs: list[str], by_use: tuple[str, ...], used: tuple[str, ...]) -> dict[str, str]:
    """New names for what only the second side names: by use where the masks are alike, otherwise in order."""
    rest = [name for name in mine if name not in theirs], [name for name in theirs if name not in mine]
    found = {new: old for old, new in zip(by_use, used, strict=True) if old in rest[0] and new in rest[1]}
    left = [name for name in rest[0] if name not in found.values()], [name for name in rest[1] if name not in found]
    return found | (dict(zip(left[1], left[0], strict=True)) if len(left[0]) == len(left[1]) else {})


def _renamed(root: Expr, parameters: Mapping[str, str], captures: Mapping[str, str]) -> Expr:
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        name = str(expr.value)
        if expr.op is Op.PARAM and name in parameters:
            done[expr] = param(parameters[name])
        elif expr.op is Op.LOAD and name in captures:
            done[expr] = node(Op.LOAD, tuple(done[arg] for arg in expr.args), captures[name], expr.scalar)
        else:
            done[expr] = with_args(expr, tuple(done[arg] for arg in expr.args))
    return done[root]

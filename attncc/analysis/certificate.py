"""Certificates: why each claim about a mask's tiles holds.

The claims are that `visit` False and `full` True are right for every tile, and that the ranges of keys and queries hold
every visible pair, their full parts nothing else. A claim is proven by contradiction: the mask with its denial would
make a sum of inequalities read `negative number >= 0`. Where that needs it, the bounds of single literals are taken
from the interval rules and named. Every claim is also checked pair by pair at small sizes and on random tiles at large
ones; a claim without proof that passes is `tested`, one that fails is `refuted`, with the numbers.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.affine import Conjunction
from attncc.analysis.bands import Bands, MaskShape, Range, Tabulated, summarize_mask
from attncc.analysis.compiled import function_of, names_of
from attncc.analysis.conditions import normal_condition
from attncc.analysis.entailment import Entailment
from attncc.analysis.linear import at_least_zero
from attncc.analysis.logic import parts
from attncc.analysis.satisfy import TRIED, Contradiction, Proof, prove_never
from attncc.analysis.solver import Solver
from attncc.analysis.statistics import Statistic
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN
from attncc.analysis.systems import count_checked
from attncc.ir import (
    FALSE,
    KV_IDX,
    Q_IDX,
    Expr,
    Op,
    Scalar,
    apply,
    conjunction,
    disjunction,
    postorder,
    substitute,
)

#: The length up to which every pair of every tile is looked at, and the tile sizes there.
SMALL_LENGTH: Final = 9
SMALL_TILES: Final = (1, 2, 4)
#: Random tiles at large lengths, and random pairs in each.
LARGE_LENGTHS: Final = (1000, 65536, 1 << 20)
LARGE_TILES: Final = 40
PAIRS: Final = 24


class Verdict(enum.Enum):
    """How a claim stands."""

    INEQUALITIES = "proven by inequalities"
    INTERVALS = "proven by inequalities and the interval rules"
    TESTED = "tested, not proven"
    REFUTED = "refuted"


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about a mask: `denial` can hold for no pair. `witness` holds the numbers of a refutation."""

    statement: str
    denial: Expr
    verdict: Verdict
    proof: Proof | None = None
    witness: dict[str, int] | None = None

    @property
    def is_proven(self) -> bool:
        """Whether the claim has a proof."""
        return self.verdict in (Verdict.INEQUALITIES, Verdict.INTERVALS)


@dataclass(frozen=True, slots=True)
class Certificate:
    """All claims about a mask, and how many pairs were looked at besides the proofs."""

    shape: MaskShape
    claims: tuple[Claim, ...]
    pairs: int

    @property
    def is_proven(self) -> bool:
        """Whether every claim has a proof."""
        return all(claim.is_proven for claim in self.claims)

    @property
    def is_refuted(self) -> bool:
        """Whether some claim is wrong."""
        return any(claim.verdict is Verdict.REFUTED for claim in self.claims)


def prove(mask: Expr, shape: MaskShape | None = None) -> Certificate:
    """A certificate of a mask's summary, or of any summary that is handed in."""
    shape = summarize_mask(mask) if shape is None else shape
    checker = _Checker(mask, shape)
    claims = []
    for statement, fixed, hidden, denied in _denials(mask, shape):
        claims.append(checker.claim(statement, fixed, hidden, denied))
    return Certificate(shape, tuple(claims), checker.pairs)


def _denials(mask: Expr, shape: MaskShape) -> Iterator[tuple[str, Expr, bool, Expr]]:
    """Each claim as (statement, where the pair lies, whether the mask is False there, what cannot hold then)."""
    box = conjunction(_between(Q_IDX, Q_MIN, Q_MAX), _between(KV_IDX, KV_MIN, KV_MAX))
    yield "a tile that is not visited holds no visible pair", box, False, _not(shape.test.visit)
    yield "every pair of a full tile is visible", box, True, shape.test.full
    if not isinstance(shape, Bands | Tabulated):
        return
    axes = (
        ("keys", "queries", KV_IDX, _between(Q_IDX, Q_MIN, Q_MAX), shape.kv_ranges),
        ("queries", "keys", Q_IDX, _between(KV_IDX, KV_MIN, KV_MAX), shape.q_ranges),
    )
    for many, other, position, tile, ranges in axes:
        outside = conjunction(*(_not(_inside(position, r, r.start, r.stop)) for r in ranges))
        yield f"{many} outside of the ranges are hidden from the tile's {other}", tile, False, outside
        for i, each in enumerate(ranges):
            full = _inside(position, each, each.full_start, each.full_stop)
            if full is not FALSE:
                yield f"{many} of full range {i + 1} are visible to all of the tile's {other}", tile, True, full


def _between(position: Expr, first: Expr, last: Expr) -> Expr:
    return conjunction(apply(Op.GE, position, first), apply(Op.LE, position, last))


def _inside(position: Expr, each: Range, start: Expr, stop: Expr) -> Expr:
    return conjunction(each.when, apply(Op.GE, position, start), apply(Op.LT, position, stop))


def _not(condition: Expr) -> Expr:
    return apply(Op.NOT, condition)


class _Checker:
    """Proves and tests the claims of one mask."""

    def __init__(self, mask: Expr, shape: MaskShape) -> None:
        self.mask = mask
        self.shape = shape
        self.solver = Solver(mask)
        self.pairs = 0
        statistics = shape.test.statistics
        self.captured = conjunction(*(_meaning(each) for each in statistics))
        #: the placeholders of the solver's own literals stand for the statistics' expressions
        self.meanings = {each.placeholder: each.expr for each in self.solver.statistics}

    def claim(self, statement: str, place: Expr, hidden: bool, denied: Expr) -> Claim:
        """The claim with its verdict: a witness beats everything, a proof beats a test."""
        truth = _not(self.mask) if hidden else self.mask
        denial = conjunction(place, truth, denied)
        witness = self._witness(place, conjunction(truth, denied))
        if witness is not None:
            return Claim(statement, denial, Verdict.REFUTED, None, witness)
        proof = prove_never(conjunction(denial, self.captured))
        if proof is not None:
            return Claim(statement, denial, Verdict.INEQUALITIES, proof)
        proof = self._by_intervals(place, hidden, denied)
        return Claim(statement, denial, Verdict.TESTED if proof is None else Verdict.INTERVALS, proof)

    def _by_intervals(self, place: Expr, hidden: bool, denied: Expr) -> Proof | None:
        """A proof for each conjunction of the mask (or of its complement), with the bounds of its literals given."""
        terms = self.solver.complement if hidden else self.solver.terms
        if terms is None:
            return None
        proofs: list[Contradiction] = []
        checked = 0
        for term in terms:
            facts = [_lifted(self.solver.walk.interval(literal).hi) for literal in term.literals]
            literals = [self._spelled(literal) for literal in term.literals]
            bounds, steps = self._bounds(term)
            given = [place, *literals, *facts, *bounds, self.captured, self.solver.assume]
            checked += steps
            entailed = Entailment(given).prove(_not(denied))
            if entailed is None:
                proof = prove_never(conjunction(*given, denied))
                if proof is None:
                    return None
                entailed = list(proof.contradictions)
            proofs += entailed
        for case in parts(Op.OR, normal_condition(_not(self.solver.assume))):
            entailed = Entailment([place, case]).prove(_not(denied))  # a divisor is not positive: nothing is left out
            if entailed is None and prove_never(conjunction(place, denied, case)) is None:
                return None
            proofs += entailed or []
        return Proof(tuple(proofs), checked)

    def _bounds(self, term: Conjunction) -> tuple[list[Expr], int]:
        """The bounds of both positions by elimination, and the number of steps, each of which was checked."""
        found, steps = [], 0
        for axis in (self.solver.kv_axis, self.solver.q_axis):
            for each in axis.bounds(term):
                count = count_checked(self.solver.numbers, each)
                if count is not None:
                    found.append(self._spelled(at_least_zero(each.form)))
                    steps += count
        return found, steps

    def _spelled(self, literal: Expr) -> Expr:
        return substitute(literal, self.meanings)

    def _witness(self, place: Expr, denied: Expr) -> dict[str, int] | None:
        """Numbers that refute a claim, looked for at small and at large sizes."""
        names = sorted(set(names_of(self.mask, denied, place)) | set(_SIZES))
        statistics = [s for s in self.shape.test.statistics if {_stem(s)} & {n.rpartition("_")[0] for n in names}]
        holds = function_of([conjunction(place, denied)], names)
        for values, load in self._cases(names, statistics):
            self.pairs += 1
            try:
                if holds(*(values[name] for name in names), load=load)[0]:
                    return values
            except (ZeroDivisionError, OverflowError, ValueError):
                continue  # the mask itself has no value there
        return None

    def _cases(self, names: Sequence[str], statistics: Sequence[Statistic]) -> Iterator[tuple[dict[str, Any], Any]]:
        r = random.Random(0)
        parameters = [n for n in names if n not in _SIZES and not n.startswith("stat") and n not in _POSITIONS]
        for tile in SMALL_TILES:
            for _ in range(6):
                values = _sizes(r, r.randrange(1, SMALL_LENGTH + 1), r.randrange(1, SMALL_LENGTH + 1))
                values |= {name: r.choice(TRIED) for name in parameters}
                load = pretended(self.mask, r.randrange(1 << 30))
                for q in range(0, values["q_len"], tile):
                    for kv in range(0, values["kv_len"], tile):
                        yield from _pairs_of(values, q, kv, tile, statistics, load, None)
        for length in LARGE_LENGTHS:
            for _ in range(LARGE_TILES):
                values = _sizes(r, length, length) | {name: r.choice((*TRIED, 128, 500, 4096)) for name in parameters}
                q = r.randrange(0, length, 128)
                kv = r.choice((q, max(0, q + r.choice((-4096, -512, -128, 128))), r.randrange(0, length, 128)))
                kv = min(kv, length - 1)
                load = pretended(self.mask, r.randrange(1 << 30))
                yield from _pairs_of(values, q, kv, 128, statistics, load, r)


_SIZES: Final = ("batch", "heads", "q_len", "kv_len", "b", "h")
_POSITIONS: Final = ("q_idx", "kv_idx", "q_min", "q_max", "kv_min", "kv_max")


def _sizes(r: random.Random, q_len: int, kv_len: int) -> dict[str, Any]:
    batch, heads = r.randrange(1, 4), r.randrange(1, 9)
    return {
        "batch": batch,
        "heads": heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "b": r.randrange(batch),
        "h": r.randrange(heads),
    }


def _pairs_of(
    values: dict[str, Any],
    q: int,
    kv: int,
    tile: int,
    statistics: Sequence[Statistic],
    load: Any,
    r: random.Random | None,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every pair of a tile, or random ones, with the statistics of the tile."""
    q_max, kv_max = min(q + tile, values["q_len"]) - 1, min(kv + tile, values["kv_len"]) - 1
    ends = {"q_min": q, "q_max": q_max, "kv_min": kv, "kv_max": kv_max}
    found = values | ends
    try:
        for each in statistics:
            found |= _extremes(each, found, load)
    except (ZeroDivisionError, OverflowError, ValueError):
        return  # the mask has no value there
    every = [(x, y) for x in range(q, q_max + 1) for y in range(kv, kv_max + 1)] if r is None else []
    if r is not None:
        every = [
            (r.choice((q, q_max, r.randint(q, q_max))), r.choice((kv, kv_max, r.randint(kv, kv_max))))
            for _ in range(PAIRS)
        ]
    for x, y in every:
        yield found | {"q_idx": x, "kv_idx": y}, load


def _extremes(each: Statistic, values: dict[str, Any], load: Any) -> dict[str, Any]:
    names = names_of(each.expr)
    value = function_of([each.expr], names)
    position = "q_idx" if each.axis == "q" else "kv_idx"
    first, last = values[f"{each.axis}_min"], values[f"{each.axis}_max"]
    found = [value(*((values | {position: i})[name] for name in names), load=load)[0] for i in range(first, last + 1)]
    numbers = [x for x in found if x == x]
    stem = _stem(each)
    return {
        f"{stem}_min": min(numbers, default=0),
        f"{stem}_max": max(numbers, default=0),
        f"{stem}_nan": len(numbers) < len(found),
    }


def _stem(each: Statistic) -> str:
    return f"stat{each.number}"


def _meaning(each: Statistic) -> Expr:
    """What the parameters of a statistic say of its values."""
    if each.expr.scalar is Scalar.BOOL:
        return conjunction(disjunction(_not(each.expr), each.largest), disjunction(_not(each.least), each.expr))
    between = _between(each.expr, each.least, each.largest)
    return between if each.expr.scalar is Scalar.INDEX else disjunction(between, each.nan)


def pretended(mask: Expr, seed: int) -> Callable[[str, tuple[int, ...]], Any]:
    """Captured tensors of any size with random content, the same for the same seed: sorted-looking small integers."""
    kinds = {str(e.value): e.scalar for e in postorder(mask) if e.op is Op.LOAD}

    def load(name: str, index: tuple[int, ...]) -> Any:
        r = random.Random(f"{seed} {name} {index}")
        if kinds[name] is Scalar.BOOL:
            return r.random() < 0.6
        if kinds[name] is Scalar.INDEX:
            return (sum(index) // 4 if seed % 2 else 0) + r.randrange(3)
        return r.choice((r.uniform(-4, 4), float(r.randrange(-3, 4)), float("nan") if r.random() < 0.1 else 0.5))

    return load


def _lifted(value: Any) -> Expr:
    assert isinstance(value, Expr)
    return value

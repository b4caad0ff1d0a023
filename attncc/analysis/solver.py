"""Solving one mask: its conjunctions, their projections on both axes, and the test of a tile.

A mask with few conjunctions, or with linear ones only, is solved whole. Of one with many, the parts that multiply the
cases most are left to the interval rules; what is left still bounds the ranges, only less closely.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.affine import Axis, Conjunction, Projection, Remainders, is_linear, parse
from attncc.analysis.conditions import conjunctions, normal_condition
from attncc.analysis.integers import Side, has_solution
from attncc.analysis.linear import form_of
from attncc.analysis.logic import joined, literal_form, negated, parts
from attncc.analysis.numbers import Value
from attncc.analysis.shape import side
from attncc.analysis.statistics import Extraction
from attncc.analysis.symbolic import KV_MAX, KV_MIN, Q_MAX, Q_MIN, ExprNumbers
from attncc.analysis.tiles import TileTest, check_names, symbolic_walk
from attncc.ir import FALSE, KV_IDX, KV_LEN, Q_IDX, Q_LEN, TRUE, Expr, Op, const, postorder

#: Conjunctions with quotients or remainders that are solved, each; measured to keep a mask within 100 ms.
FEW: Final = 6
#: Of more linear conjunctions than this the ranges come from fewer that hold all of them; the tile test is exact.
MANY_LINEAR: Final = 12
#: Of more conjunctions than this, which end as one range around them all, no full ranges are made.
MANY: Final = 8
#: Lines between the shadows of a hidden conjunction that are looked at: a full tile that is not found costs a mask.
LINES_OF_FULL: Final = 4


@dataclass(frozen=True, slots=True)
class Union:
    """A condition as a union of conjunctions, each with its projections on kv and on q."""

    terms: tuple[Conjunction, ...]
    kv: tuple[Projection, ...]
    q: tuple[Projection, ...]


class Solver:
    """One mask with everything that its solution shares: statistics, positive divisors, the walk over a tile."""

    def __init__(self, mask: Expr) -> None:
        check_names(mask)
        self.mask = mask
        extraction = Extraction()
        self.condition = normal_condition(extraction.run(normal_condition(mask)))
        self.statistics = tuple(extraction.found.values())
        self.remainders = Remainders()
        self.terms = self._parsed(self.condition)
        self.walk = symbolic_walk(self.statistics, self.remainders.positive)
        assert isinstance(self.walk.numbers, ExprNumbers)
        self.numbers: ExprNumbers = self.walk.numbers
        parts = (self.walk, self.numbers, self.remainders)
        self.kv_axis, self.q_axis = Axis(KV_IDX, *parts, KV_LEN), Axis(Q_IDX, *parts, Q_LEN)

    def _parsed(self, condition: Expr) -> tuple[Conjunction, ...] | None:
        terms = _few(condition)
        if terms is None:
            terms = [term for branch in parts(Op.OR, condition) for term in _relaxed(branch)]
        few = len(terms) <= 2 * FEW or all(map(_is_linear_literal, _literals(condition)))
        return tuple(parse(term, self.remainders) for term in terms) if few else None

    @functools.cached_property
    def complement(self) -> tuple[Conjunction, ...] | None:
        """The conjunctions in which the mask does not hold."""
        return self._parsed(normal_condition(negated(self.condition)))

    @property
    def assume(self) -> Expr:
        """What is taken of parameters: that divisors are at least 1."""
        result: Value = TRUE
        plain = symbolic_walk().numbers
        for divisor in self.remainders.positive:
            result = plain.and_(result, plain.le(const(1), divisor))
        return _lifted(result)

    def solve(self, terms: Sequence[Conjunction]) -> Union:
        """The projections of conjunctions on both axes."""
        full = len(terms) <= MANY
        kv, q = (tuple(axis.project(term, full) for term in terms) for axis in (self.kv_axis, self.q_axis))
        return Union(tuple(terms), kv, q)

    def rough(self) -> tuple[Conjunction, ...] | None:
        """Fewer conjunctions that hold wherever the mask does, for ranges of a mask with many linear ones."""
        if self.terms is None or len(self.terms) <= MANY_LINEAR or not all(map(_is_linear, self.terms)):
            return self.terms
        found = [term for branch in parts(Op.OR, self.condition) for term in _relaxed(branch)]
        return tuple(parse(term, self.remainders) for term in found) if len(found) < len(self.terms) else self.terms

    def test(self, union: Union | None) -> TileTest:
        """The tile test; exact for tiles to visit where every conjunction is solved exactly."""
        found = self.walk.interval(self.condition)
        visit, full = _lifted(found.hi), _lifted(found.lo)
        assume = self.assume
        if union is not None:
            reached, exact = self._reached(union)
            visit = reached if exact else _lifted(self.numbers.and_(visit, reached))
        hidden = _few(normal_condition(negated(self.condition)))
        if hidden is not None:
            missed = self._missed([parse(term, self.remainders) for term in hidden])
            full = full if missed is None else _lifted(self.numbers.not_(missed))
        if assume is not TRUE:  # a divisor of 0 or less: visit, and look at every pair
            visit, full = (
                _lifted(self.numbers.or_(self.numbers.not_(assume), visit)),
                _lifted(self.numbers.and_(assume, full)),
            )
        return TileTest(visit, full, self.statistics)

    def _missed(self, terms: Sequence[Conjunction]) -> Expr | None:
        """The condition that some conjunction holds somewhere in the tile; None if that is not known exactly."""
        result: Value = FALSE
        for term in terms:
            if term.others:
                return None
            reached = self._linear(term, LINES_OF_FULL)
            if reached is None:
                kv = self.kv_axis.project(term)
                if not kv.exact:
                    return None
                reached = self.numbers.all_of([kv.when, *_meets(self.numbers, kv, KV_MIN, KV_MAX)])
            result = self.numbers.or_(result, reached)
        return _lifted(result)

    def _linear(self, term: Conjunction, most_lines: int | None = None) -> Expr | None:
        """The exact condition that a linear conjunction holds somewhere in the tile; None for others."""
        if not _is_linear(term):
            return None
        box = Side(Q_IDX, form_of(Q_MIN), form_of(Q_MAX)), Side(KV_IDX, form_of(KV_MIN), form_of(KV_MAX))
        found = has_solution(self.numbers, term.forms, *box, most_lines)
        return None if found is None else self.numbers.all_of([*term.guards, found])

    def _reached(self, union: Union) -> tuple[Expr, bool]:
        """The condition that some conjunction may hold somewhere in the tile, and whether that is exact."""
        result: Value = FALSE
        exact = True
        if union.terms is not self.terms:  # the ranges are rough, the linear conjunctions are not
            linear = [self._linear(term) for term in self.terms or ()]
            if None not in linear:
                return joined(Op.OR, *(each for each in linear if each is not None)), True
        for term, kv, q in zip(union.terms, union.kv, union.q, strict=True):
            reached, sure = self._term_reached(term, kv, q)
            result, exact = self.numbers.or_(result, reached), exact and sure
        return _lifted(result), exact

    def _term_reached(self, term: Conjunction, kv: Projection, q: Projection) -> tuple[Value, bool]:
        n = self.numbers
        linear = self._linear(term)
        if linear is not None:
            return linear, True
        if kv.exact:
            return n.all_of([kv.when, *_meets(n, kv, KV_MIN, KV_MAX)]), True
        if q.exact:
            return n.all_of([q.when, *_meets(n, q, Q_MIN, Q_MAX)]), True
        reached = [kv.when, q.when, *_meets(n, kv, KV_MIN, KV_MAX), *_meets(n, q, Q_MIN, Q_MAX)]
        return n.all_of([*(_lifted(self.walk.interval(literal).hi) for literal in term.literals), *reached]), False


def _is_linear(term: Conjunction) -> bool:
    return not term.others and all(map(is_linear, term.forms))


def _few(condition: Expr) -> list[list[Expr]] | None:
    """The conjunctions of a condition that is solved whole: few, or all linear, which takes a fraction of the time."""
    linear = all(map(_is_linear_literal, _literals(condition)))
    return conjunctions(condition) if linear else conjunctions(condition, FEW)


def _literals(condition: Expr) -> list[Expr]:
    """What stands below the ANDs and ORs."""
    found: dict[Expr, None] = {}
    stack, seen = [condition], {condition}
    while stack:
        expr = stack.pop()
        if expr.op not in (Op.AND, Op.OR):
            found[expr] = None
            continue
        stack += [arg for arg in expr.args if arg not in seen]
        seen.update(expr.args)
    return list(found)


def _is_linear_literal(expr: Expr) -> bool:
    found = literal_form(expr)
    return side(expr) == "point" or (found is not None and is_linear(found[1]))


def _relaxed(branch: Expr) -> list[list[Expr]]:
    """The conjunctions of the parts of an AND that multiply the cases least; the other parts stay whole in each."""
    sized = [(conjunctions(part, FEW), part) for part in parts(Op.AND, branch)]
    sized.sort(key=lambda item: (_has_remainder(item[1]), 10**6 if item[0] is None else len(item[0])))
    product: list[list[Expr]] = [[]]
    whole: list[Expr] = []
    for terms, part in sized:
        if terms is None or len(product) * len(terms) > FEW:
            whole.append(part)
        else:
            product = [left + right for left in product for right in terms]
    return [term + whole for term in product]


def _has_remainder(condition: Expr) -> bool:
    return any(expr.op is Op.MOD for expr in postorder(condition))


def _meets(n: ExprNumbers, projection: Projection, first: Expr, last: Expr) -> list[Expr]:
    """The conditions that a tile from `first` to `last` holds a position of a range; tiles lie inside the sequence."""
    pairs = [(lower, last) for lower in projection.lowers] + [(first, upper) for upper in projection.uppers]
    pairs += [(lower, upper) for lower in projection.lowers for upper in projection.uppers]
    return [_lifted(n.le(lower, upper)) for lower, upper in pairs]


def _lifted(value: Value) -> Expr:
    return value if isinstance(value, Expr) else const(value)

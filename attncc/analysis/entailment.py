"""Proofs that a condition follows from literals, one part of it after the other.

A denial of a long condition is a long union of conjunctions. Its parts follow one by one: all of an AND, one of an OR.
What is left are literals, each refuted together with the literals that speak of the same things.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attncc.analysis.conditions import normal_condition
from attncc.analysis.linear import Form
from attncc.analysis.logic import literal_form, negated, parts
from attncc.analysis.satisfy import Contradiction, contradict
from attncc.ir import FALSE, TRUE, Expr, Op, postorder

#: Attempts to refute a literal, beyond which a proof is given up.
MAX_ATTEMPTS: Final = 600


class Entailment:
    """Conditions that hold together, and what has been shown to follow from them."""

    def __init__(self, conditions: Iterable[Expr]) -> None:
        self.given = dict.fromkeys(part for each in conditions for part in parts(Op.AND, normal_condition(each)))
        self.choices = [set(parts(Op.OR, each)) for each in self.given if each.op is Op.OR]
        self.literals = [each for each in self.given if literal_form(each) is not None]
        self.names = {each: _leaves(each) for each in self.literals}
        self.forms: dict[object, Form] = {}
        for each in self.literals:
            self._keep(each)
        self.shown: dict[Expr, list[Contradiction] | None] = {}
        self.attempts = 0

    def _keep(self, given: Expr) -> None:
        """Remember the strongest bound on each form."""
        found = literal_form(given)
        if found is None or found[0] is Op.NE:
            return
        for form in (found[1],) if found[0] is Op.GE else (found[1], found[1].scaled(-1)):
            key = form.key()
            if key not in self.forms or form.constant < self.forms[key].constant:
                self.forms[key] = form

    def prove(self, goal: Expr) -> list[Contradiction] | None:
        """The contradictions that the goal's denial leads to, None where no proof was found."""
        return self._prove(normal_condition(goal))

    def _prove(self, goal: Expr) -> list[Contradiction] | None:
        if goal is TRUE or goal in self.given:
            return []
        if goal not in self.shown:
            self.shown[goal] = self._shown(goal)
        return self.shown[goal]

    def _shown(self, goal: Expr) -> list[Contradiction] | None:
        if goal.op is Op.AND:
            found: list[Contradiction] = []
            for part in parts(Op.AND, goal):
                proof = self._prove(part)
                if proof is None:
                    return None
                found += proof
            return found
        if goal.op is not Op.OR:
            return self._refuted([negated(goal)])
        wanted = set(parts(Op.OR, goal))
        if any(given <= wanted for given in self.choices):
            return []
        for part in parts(Op.OR, goal):
            proof = self._prove(part)
            if proof is not None:
                return proof
        return self._by_clauses(goal)

    def _by_clauses(self, goal: Expr) -> list[Contradiction] | None:
        """An OR of which no part follows alone: with one literal of each AND in turn, all must hold."""
        alternatives = [parts(Op.AND, part) for part in parts(Op.OR, goal)]
        unsettled = [[each for each in part if self._prove(each) is None] for part in alternatives]
        clauses: list[list[Expr]] = [[]]
        for part in unsettled:
            clauses = [[*clause, each] for clause in clauses for each in part]
            if len(clauses) > MAX_CLAUSES:
                return None
        found: list[Contradiction] = []
        for clause in clauses:
            flat = list(dict.fromkeys(part for each in clause for part in parts(Op.OR, each)))
            proof = None if any(each.op is Op.AND for each in flat) else self._refuted([negated(x) for x in flat])
            if proof is None:
                return None
            found += proof
        return found

    def _refuted(self, denied: Sequence[Expr]) -> list[Contradiction] | None:
        """A contradiction of the denied literals with what is given: with few of these first, then with all."""
        if FALSE in denied:
            return []
        usable = [each for each in denied if literal_form(each) is not None]
        direct = self._direct(usable[0]) if len(usable) == 1 else None
        if direct is not None:
            return [direct]
        tried = -1
        for hops in (0, 1, 2, 99):
            near = self._near(usable, hops)
            if len(near) == tried:
                continue
            tried, self.attempts = len(near), self.attempts + 1
            if self.attempts > MAX_ATTEMPTS:
                return None
            found = contradict([*usable, *near])
            if found is not None:
                return [found]
        return None

    def _direct(self, denied: Expr) -> Contradiction | None:
        """A sum of the denied literal with one or two of the given ones that is a negative number."""
        found = literal_form(denied)
        if found is None or found[0] is not Op.GE:
            return None
        for first in (None, *self.forms.values()):
            total = found[1] if first is None else found[1].plus(first)
            second = self.forms.get(total.scaled(-1).key())
            rest = total.constant if second is None else total.constant + second.constant
            if rest < 0 and (second is not None or not total.terms):
                terms = [(1, form) for form in (found[1], first, second) if form is not None]
                return Contradiction(tuple(terms), rest)
        return None

    def _near(self, denied: Sequence[Expr], hops: int) -> list[Expr]:
        """The given literals that share inputs and parameters with the denied ones, over so many steps."""
        near: list[Expr] = []
        reached = set().union(*(_leaves(each) for each in denied)) if denied else set()
        for _ in range(min(hops, 3)):
            near = [each for each in self.literals if hops > 3 or self.names[each] & reached]
            reached = reached.union(*(self.names[each] for each in near))
        return near


#: Clauses of one OR that are shown.
MAX_CLAUSES: Final = 24


def _leaves(expr: Expr) -> frozenset[Expr]:
    return frozenset(each for each in postorder(expr) if each.op in (Op.INPUT, Op.PARAM, Op.LOAD))

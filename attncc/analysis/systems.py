"""Systems of linear inequalities, and the elimination of a variable from them (Fourier and Motzkin).

A constraint is `form >= 0`. Variables are atoms (positions, and quotients such as q_idx // 64); their coefficients are
integers, or expressions whose sign is known: parameters that are taken to be positive. Eliminating x pairs every lower
bound a*x + f >= 0 with every upper bound -b*x + g >= 0 to b*f + a*g >= 0. That follows for all numbers; over the
integers it is enough as well where a or b is 1, and the elimination says whether it always was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from attncc.analysis.linear import ONE, Form, tightened
from attncc.analysis.shape import side
from attncc.analysis.symbolic import ExprNumbers
from attncc.ir import Expr

#: Systems that grow beyond this are given up: the analysis then falls back on intervals.
MAX_CONSTRAINTS: Final = 160
#: Of more pairs of bounds on a variable that stands in an equation only those with the equation are taken.
MANY_PAIRS: Final = 30


@dataclass(frozen=True, slots=True)
class Constraint:
    """form >= 0. `history` names the given constraints behind it; `link` the quotient that it defines, if any; `step`
    is how it was made, None for a given one."""

    form: Form
    history: frozenset[int]
    link: Expr | None = None
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A sum of two constraints, each a positive number of times, over a common positive factor."""

    lower: Constraint
    by_lower: Form
    upper: Constraint
    by_upper: Form


def given(forms: Iterable[tuple[Form, Expr | None]]) -> list[Constraint]:
    """Constraints as they are given, numbered."""
    return [Constraint(form, frozenset((i,)), link) for i, (form, link) in enumerate(forms)]


def coefficient(form: Form, variable: Expr) -> Form | None:
    """What the variable is multiplied by; None where it stands in a square."""
    terms: dict[tuple[Expr, ...], int] = {}
    constant = 0
    for monomial, count in form.terms.items():
        if variable not in monomial:
            continue
        rest = list(monomial)
        rest.remove(variable)
        if variable in rest:
            return None
        if rest:
            terms[tuple(rest)] = count
        else:
            constant = count
    return Form(terms, constant)


def sign(numbers: ExprNumbers, form: Form) -> int | None:
    """1 or -1 where the form is known to be so, 0 for 0, None where its sign may change."""
    if not form.terms:
        return (form.constant > 0) - (form.constant < 0)
    if numbers.is_nonnegative(form.shifted(-1)):
        return 1
    return -1 if numbers.is_nonnegative(form.scaled(-1).shifted(-1)) else None


@dataclass(frozen=True, slots=True)
class Bound:
    """A constraint seen from one variable: factor * variable + the rest >= 0, or <= for an upper bound; factor > 0."""

    factor: Form
    constraint: Constraint


@dataclass(frozen=True, slots=True)
class Sides:
    """The lower and upper bounds of one variable, what does not mention it, and whether anything was left out."""

    lowers: list[Bound]
    uppers: list[Bound]
    rest: list[Constraint]
    complete: bool


def split(numbers: ExprNumbers, constraints: Sequence[Constraint], variable: Expr) -> Sides:
    """The constraints as bounds of one variable; one whose coefficient may change its sign is left out."""
    lowers: list[Bound] = []
    uppers: list[Bound] = []
    rest: list[Constraint] = []
    complete = True
    for each in constraints:
        factor = coefficient(each.form, variable)
        direction = None if factor is None else sign(numbers, factor)
        if factor is None or direction is None:
            complete = False
        elif direction == 0:
            rest.append(each)
        elif direction > 0:
            lowers.append(Bound(factor, each))
        else:
            uppers.append(Bound(factor.scaled(-1), each))
    return Sides(lowers, uppers, rest, complete)


def combined(lower: Bound, upper: Bound) -> Form:
    """What follows from a lower and an upper bound of one variable, without the variable."""
    return sum_of(paired(lower, upper))


def paired(lower: Bound, upper: Bound) -> Step:
    """The sum of a lower and an upper bound of one variable in which the variable cancels."""
    a, b = lower.factor, upper.factor
    if not a.terms and not b.terms:
        shared = math.gcd(a.constant, b.constant)
        a, b = Form({}, a.constant // shared), Form({}, b.constant // shared)
    return Step(lower.constraint, b, upper.constraint, a)


def sum_of(step: Step) -> Form:
    """The sum, not yet over a common factor."""
    return step.lower.form.times(step.by_lower).plus(step.upper.form.times(step.by_upper))


def count_checked(numbers: ExprNumbers, constraint: Constraint) -> int | None:
    """How many steps lead to the constraint, each of them worked out again; None if one of them is wrong."""
    seen: set[int] = set()
    stack = [constraint]
    while stack:
        each = stack.pop()
        if each.step is None or id(each) in seen:
            continue
        seen.add(id(each))
        if not _is_right(numbers, each.form, each.step):
            return None
        stack += [each.step.lower, each.step.upper]
    return len(seen)


def _is_right(numbers: ExprNumbers, form: Form, step: Step) -> bool:
    """Whether factor * (content * form + rest) is the sum for a positive factor and 0 <= rest < content."""
    total = sum_of(step)
    reduced, factor = numbers.divided(total)
    content = max(reduced.content, 1)
    rest = reduced.plus(form, -content)
    positive = (step.by_lower, step.by_upper, factor)
    back = reduced.times(factor)
    return (
        all(numbers.is_nonnegative(each.shifted(-1)) for each in positive)
        and (back.key(), back.constant) == (total.key(), total.constant)
        and not rest.terms
        and 0 <= rest.constant < content
    )


def is_exact_pair(numbers: ExprNumbers, lower: Bound, upper: Bound) -> bool:
    """Whether a variable fits between the two wherever the combined constraint holds: a factor is 1, or the dark shadow
    b*f + a*g >= (a - 1)*(b - 1) always holds."""
    a, b = lower.factor, upper.factor
    if ONE in (a, b):
        return True
    shadow = lower.constraint.form.times(b).plus(upper.constraint.form.times(a))
    return numbers.is_nonnegative(shadow.plus(a.shifted(-1).times(b.shifted(-1)), -1))


def eliminate(
    numbers: ExprNumbers, constraints: Sequence[Constraint], variable: Expr, eliminated: int, last: bool = False
) -> tuple[list[Constraint], bool] | None:
    """The constraints without the variable, and whether every integer solution of them extends to one with it.

    `eliminated` counts this variable and those before it: a constraint that came from more than one more than that
    many given ones follows from the others (Kohler 1967). After the `last` one no histories are needed; if it stands
    in an equation, what that makes of the other constraints is enough. None if the system grows too large.
    """
    sides = split(numbers, constraints, variable)
    made, exact = list(sides.rest), sides.complete
    many = len(sides.lowers) * len(sides.uppers) > MANY_PAIRS
    halves = _equation(sides) if many and last and eliminated == 1 else ()
    for lower in sides.lowers:
        for upper in sides.uppers:
            if halves and lower.constraint is not halves[0] and upper.constraint is not halves[1]:
                continue  # follows for all numbers; and there is an integer between if there is one on the equation
            if lower.constraint.link is not None and lower.constraint.link is upper.constraint.link:
                continue  # the two halves of a quotient's definition always leave exactly one integer
            history = lower.constraint.history | upper.constraint.history
            exact = exact and is_exact_pair(numbers, lower, upper)
            if len(history) <= eliminated + 1:
                step = paired(lower, upper)
                made.append(Constraint(tightened(numbers.reduced(sum_of(step))), history, None, step))
    made = strongest(numbers, made)
    return None if len(made) > MAX_CONSTRAINTS else (made, exact)


def _equation(sides: Sides) -> tuple[Constraint, ...]:
    """Two constraints f >= 0 and -f >= 0; none if there are no such."""
    uppers = {(each.constraint.form.key(), each.constraint.form.constant): each.constraint for each in sides.uppers}
    for lower in sides.lowers:
        form = lower.constraint.form.scaled(-1)
        other = uppers.get((form.key(), form.constant))
        if other is not None:
            return lower.constraint, other
    return ()


def strongest(numbers: ExprNumbers, constraints: Iterable[Constraint]) -> list[Constraint]:
    """The constraints without those on the whole tile that always hold, and of several on one form the strongest.

    A constraint on variables stays even if it always holds: it may be the definition of a quotient.
    """
    kept: dict[object, Constraint] = {}
    for each in constraints:
        if all(side(atom) == "point" for m in each.form.terms for atom in m) and numbers.is_nonnegative(each.form):
            continue
        key = each.form.key()
        other = kept.get(key)
        if other is not None:  # the shorter history: it keeps more constraints in later eliminations
            history = min(each.history, other.history, key=len)
            best = min(each, other, key=lambda c: c.form.constant)
            each = Constraint(best.form, history, other.link, best.step)
        kept[key] = each
    return list(kept.values())


def next_variable(numbers: ExprNumbers, constraints: Sequence[Constraint], variables: Sequence[Expr]) -> Expr:
    """The variable whose elimination makes the fewest constraints; the first of equals."""

    def growth(variable: Expr) -> int:
        sides = split(numbers, constraints, variable)
        return len(sides.lowers) * len(sides.uppers) - len(sides.lowers) - len(sides.uppers)

    return min(variables, key=growth)

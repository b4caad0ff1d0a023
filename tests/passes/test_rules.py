"""Each rule of simplification, alone, on random operands and values; the tests walk the table of rules itself."""

from __future__ import annotations

import functools
import itertools
import math
import random
import struct
from collections import Counter

import pytest

from attncc.errors import LanguageError
from attncc.ir import (
    FALSE,
    HEADS,
    OPS,
    Q_IDX,
    Q_LEN,
    SCORE,
    TRUE,
    Expr,
    H,
    Op,
    Scalar,
    apply,
    cast,
    const,
    evaluate,
    load,
    narrow,
    node,
    param,
)
from attncc.ir.verify import LEGAL, check
from attncc.passes.derive import derive
from attncc.passes.rules import Rule
from attncc.passes.simplify import RULES
from tests.share import SEED

INDEX, FLOAT, BOOL = Scalar.INDEX, Scalar.FLOAT, Scalar.BOOL
TRIALS = 12_000
VALUES = 12

LEAVES = {
    INDEX: [Q_IDX, param("n"), Q_LEN, H, HEADS, *map(const, (0, 1, -1, 2, 3, 6, -3))],
    FLOAT: [SCORE, load("x", FLOAT), *map(const, (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, math.nan, math.inf, -math.inf))],
    BOOL: [TRUE, FALSE, load("p", BOOL), load("r", BOOL)],
}
ARITHMETIC = (Op.ADD, Op.SUB, Op.MUL, Op.FLOORDIV, Op.MOD, Op.MIN, Op.MAX)


def grow(kind: Scalar, terms: list[Expr]) -> list[Expr]:
    """Every operation of this kind on a few terms of it."""
    made = []
    for op, row in OPS.items():
        pairs = itertools.product(terms, repeat=row.arity) if row.arity in (1, 2) else ()
        for args in pairs:
            fits = op in ARITHMETIC or op is Op.DIV if len(args) == 2 and kind is not BOOL else True
            if fits and op not in (Op.CAST, Op.NARROW) and (found := attempt(op, *args)) is not None:
                made += [found] if found.scalar is kind else []
    return made


def attempt(op: Op, *args: Expr) -> Expr | None:
    try:
        return apply(op, *args)
    except LanguageError:
        return None


@functools.cache
def pool(kind: Scalar) -> list[Expr]:
    """Operands of one kind: leaves, operations on them, and some that only longer rules look for."""
    few = {
        INDEX: [Q_IDX, param("n"), const(3), const(6)],
        FLOAT: [SCORE, load("x", FLOAT), const(2.0), const(3.0)],
        BOOL: LEAVES[BOOL],
    }[kind]
    p, r = LEAVES[BOOL][2:]
    extra = {
        INDEX: [
            *(apply(Op.MUL, apply(Op.FLOORDIV, Q_IDX, const(c)), const(c)) for c in (3, 6)),
            *(apply(Op.ADD, apply(Op.MUL, Q_IDX, const(c)), param("n")) for c in (3, 6)),
            *(cast(p, INDEX), cast(r, INDEX), apply(Op.WHERE, p, const(2), const(3))),
            *(apply(Op.MOD, Q_IDX, const(c)) for c in (3, 6, -3)),
        ],
        FLOAT: [
            *(cast(Q_IDX, FLOAT), cast(param("n"), FLOAT), cast(p, FLOAT), cast(r, FLOAT)),
            *(narrow(SCORE, "bfloat16"), narrow(SCORE, "float16"), apply(Op.WHERE, p, const(2.0), const(3.0))),
            *(apply(Op.MAX, apply(Op.NEG, SCORE), const(2.0)), apply(Op.MIN, SCORE, const(3.0))),
        ],
        BOOL: [
            *(node(op, (Q_IDX, other), None, BOOL) for op in COMPARISONS for other in (param("n"), const(3), const(6))),
            *(node(op, (param("n"), Q_IDX), None, BOOL) for op in COMPARISONS),
            *(node(op, (SCORE, other), None, BOOL) for op in COMPARISONS for other in (LEAVES[FLOAT][1], const(2.0))),
            *(apply(Op.AND, apply(Op.OR, p, r), p), apply(Op.WHERE, p, r, FALSE), apply(Op.EQ, p, r)),
            *(apply(Op.AND, apply(Op.NOT, p), r), apply(Op.OR, apply(Op.NOT, p), r)),
        ],
    }[kind]
    return [*LEAVES[kind], *grow(kind, few), *extra]


COMPARISONS = (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE)


def candidate(rule: Rule, kind: Scalar, numbers: random.Random) -> Expr | None:
    """A node of the rule's operation on random operands of this kind."""
    terms = pool(kind)
    args = [numbers.choice(terms) for _ in range(OPS[rule.op].arity or 0)]
    if numbers.random() < 0.3 and len(args) > 1:
        args[-2] = args[-1]
    match rule.op:
        case Op.WHERE:
            args[0] = numbers.choice(pool(BOOL))
            if numbers.random() < 0.5:
                nested = [numbers.choice(terms), numbers.choice(args[1:])]
                numbers.shuffle(nested)
                condition = args[0] if numbers.random() < 0.5 else numbers.choice(pool(BOOL))
                args[numbers.choice((1, 2))] = node(Op.WHERE, (condition, *nested), None, kind)
            result = kind
        case Op.CAST:
            result = FLOAT if kind is INDEX else INDEX
        case _ if rule.op in COMPARISONS:
            result = BOOL
        case _:
            result = kind
    value = numbers.choice(("bfloat16", "float16")) if rule.op is Op.NARROW else None
    made = node(rule.op, tuple(args), value, result)
    return made if LEGAL[made.op](made) is None else None


def kinds_of(rule: Rule) -> list[Scalar]:
    return list(Scalar) if rule.kind is None else [rule.kind]


def surroundings(numbers: random.Random) -> tuple[dict[str, float], dict[str, float]]:
    """Values for the leaves: indices below their sizes, floats of every sort."""
    sizes = {"q_len": numbers.choice((1, 2, 7, 20)), "heads": numbers.choice((1, 8))}
    special = (0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 2.5, -7.25, math.nan, math.inf, -math.inf, 1e300, 5e-324)
    inputs = {
        **sizes,
        "q_idx": numbers.randrange(sizes["q_len"]),
        "h": numbers.randrange(sizes["heads"]),
        "n": numbers.randint(-20, 20),
        "score": numbers.choice(special),
    }
    floats = {"x": numbers.choice((inputs["score"], *special))}
    return inputs, {**floats, "p": numbers.random() < 0.5, "r": numbers.random() < 0.5}


def value(expr: Expr, inputs: dict[str, float], elements: dict[str, float]) -> float | None:
    """The value, or None where Python refuses: a division of an int by 0, or int(nan)."""
    try:
        return evaluate(expr, inputs, lambda name, index: elements[name])
    except (ZeroDivisionError, ValueError, OverflowError):
        return None


def is_same(a: float, b: float) -> bool:
    if type(a) is not type(b):
        return False
    if not isinstance(a, float):
        return a == b
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return struct.pack("d", a) == struct.pack("d", b) or (a != 0 and math.isclose(a, b, rel_tol=1e-15, abs_tol=0))


@functools.cache
def applications() -> dict[int, list[tuple[Expr, Expr]]]:
    """For each rule, by its place in the table, nodes that it changes and what it makes of them."""
    found: dict[int, list[tuple[Expr, Expr]]] = {}
    for place, rule in enumerate(RULES):
        numbers = random.Random(SEED + place)
        found[place] = []
        for trial in range(TRIALS):
            made = candidate(rule, kinds_of(rule)[trial % len(kinds_of(rule))], numbers)
            changed = None if made is None else rule(made)
            if made is not None and changed is not None and changed is not made:
                found[place].append((made, changed))
            if len(found[place]) >= 25:
                break
    return found


def test_every_rule_applies_to_something():
    idle = [f"{RULES[place].op.value}: {RULES[place].text}" for place, made in applications().items() if not made]
    assert idle == []


@pytest.mark.parametrize("op", list(OPS), ids=lambda op: op.value)
def test_rules_keep_the_value(op: Op):
    numbers = random.Random(SEED)
    tried: Counter[str] = Counter()
    for place, made in applications().items():
        rule = RULES[place]
        for before, after in made if rule.op is op else ():
            check(after)
            assert after.scalar is before.scalar
            for _ in range(VALUES):
                inputs, elements = surroundings(numbers)
                expected = value(before, inputs, elements)
                if expected is not None:
                    tried[rule.text] += 1
                    assert is_same(expected, value(after, inputs, elements)), (
                        rule.text,
                        before,
                        after,
                        inputs,
                        elements,
                    )
    for rule in RULES:
        assert rule.op is not op or tried[rule.text] > 0


def test_rules_on_floats_keep_the_derivative():
    numbers = random.Random(SEED)
    tried = 0
    for place, made in applications().items():
        for before, after in made[:15] if RULES[place].op is not Op.CAST else ():
            if before.scalar is not FLOAT:
                continue
            first, second = derive(before, SCORE), derive(after, SCORE)
            for _ in range(VALUES):
                inputs, elements = surroundings(numbers)
                expected, actual = value(first, inputs, elements), value(second, inputs, elements)
                if all(v is not None and math.isfinite(v) for v in (expected, actual, value(before, inputs, elements))):
                    tried += 1
                    assert math.isclose(expected, actual, rel_tol=1e-12, abs_tol=1e-300), (RULES[place].text, before)
    assert tried > 500

"""A malformed node is a bug of attncc; a mistake of a definition is reported with its place and its hint."""

from __future__ import annotations

import pytest

from attncc.errors import InternalError, LanguageError, LanguageErrors
from attncc.ir import (
    KV_IDX,
    Q_IDX,
    SCORE,
    TRUE,
    AttentionSpec,
    Capture,
    Expr,
    H,
    Op,
    Origin,
    Parameter,
    Scalar,
    apply,
    cast,
    const,
    load,
    node,
    param,
)
from attncc.ir.syntax import ARGUMENT_NAMES, RESERVED_NAMES
from attncc.ir.verify import LEGAL, MAX_DEPTH, check, verify
from attncc.source import Source, Span
from tests.share import share
from tests.strategies import chain, doubled, random_expr, random_problem

INDEX, FLOAT, BOOL = Scalar.INDEX, Scalar.FLOAT, Scalar.BOOL
P = load("p", BOOL)
CAUSAL = apply(Op.GE, Q_IDX, KV_IDX)

MALFORMED = {
    "too few operands": node(Op.ADD, (Q_IDX,), None, INDEX),
    "mixed operands": node(Op.ADD, (Q_IDX, SCORE), None, FLOAT),
    "a sum of bools": node(Op.ADD, (P, P), None, BOOL),
    "a float sum of ints": node(Op.ADD, (Q_IDX, Q_IDX), None, FLOAT),
    "a quotient of ints": node(Op.DIV, (Q_IDX, Q_IDX), None, FLOAT),
    "a comparison that is a float": node(Op.LT, (SCORE, SCORE), None, FLOAT),
    "an order of bools": node(Op.LT, (P, P), None, BOOL),
    "a function of an int": node(Op.EXP, (Q_IDX,), None, FLOAT),
    "rounding an int": node(Op.FLOOR, (Q_IDX,), None, INDEX),
    "logic of ints": node(Op.AND, (Q_IDX, Q_IDX), None, INDEX),
    "bits of floats": node(Op.BIT_OR, (SCORE, SCORE), None, FLOAT),
    "a variable shift": node(Op.SHIFT_LEFT, (Q_IDX, Q_IDX), None, INDEX),
    "a long shift": node(Op.SHIFT_RIGHT, (Q_IDX, const(64)), None, INDEX),
    "a variable power of an int": node(Op.POW, (Q_IDX, Q_IDX), None, INDEX),
    "a condition that is an int": node(Op.WHERE, (Q_IDX, SCORE, SCORE), None, FLOAT),
    "branches of two kinds": node(Op.WHERE, (P, SCORE, Q_IDX), None, FLOAT),
    "a conversion to its own kind": node(Op.CAST, (SCORE,), None, FLOAT),
    "a conversion to bool": node(Op.CAST, (SCORE,), None, BOOL),
    "an unknown dtype": node(Op.NARROW, (SCORE,), "float8", FLOAT),
    "an int rounded to a half": node(Op.NARROW, (Q_IDX,), "float16", INDEX),
    "an index that is a float": node(Op.LOAD, (SCORE,), "t", FLOAT),
    "a capture without a name": node(Op.LOAD, (), None, FLOAT),
    "an unknown input": node(Op.INPUT, (), "time", INDEX),
    "an input of another kind": node(Op.INPUT, (), "score", INDEX),
    "a float parameter": node(Op.PARAM, (), "n", FLOAT),
    "a constant of another kind": node(Op.CONST, (), 1, FLOAT),
    "a constant beyond 64 bits": node(Op.CONST, (), 2**63, INDEX),
    "a value on an operation that has none": node(Op.NEG, (SCORE,), 3, FLOAT),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_node_is_a_bug(case: str):
    inside = apply(Op.WHERE, P, Q_IDX, Q_IDX)
    for root in (MALFORMED[case], node(Op.NOT, (node(Op.EQ, (inside, MALFORMED[case]), None, BOOL),), None, BOOL)):
        with pytest.raises(InternalError, match="a malformed expression"):
            check(root)


def test_every_operation_has_a_malformed_form_that_is_found():
    """LEGAL refuses some node of each operation: no row accepts everything."""
    odd = {Op.CONST: "one", Op.INPUT: "time", Op.PARAM: None, Op.LOAD: None}
    for op in LEGAL:
        arity = 3 if op is Op.WHERE else 1
        expr = node(op, () if op in odd else (Q_IDX, SCORE, P)[:arity], odd.get(op, "odd"), BOOL)
        with pytest.raises(InternalError):
            check(expr)


def test_random_expressions_and_specs_are_well_formed():
    for seed in range(share(2000)):
        check(random_expr(seed, tuple(Scalar)[seed % 3], 5)[0])
        verify(random_problem(seed).spec)


def test_depth_and_sharing_are_no_problem_for_checking():
    check(chain(5000))
    check(doubled(3000))


TEXT = Source("variant.attn", "mask = t[q] > score\nscore = n[kv]\n")


def span(text: str) -> Span:
    start = TEXT.text.index(text)
    return Span(TEXT, start, start + len(text))


def table(name: str = "t", scalar: Scalar = FLOAT, dims: tuple[str | int, ...] = ("heads",)) -> Capture:
    return Capture(name, scalar, dims)


WRONG: dict[str, tuple[AttentionSpec, str, str | None]] = {
    "a bool score": (
        AttentionSpec(score=CAUSAL),
        "`score` must be a float, but this is a bool",
        "conditions belong in `mask`, or in where(condition, score, -inf)",
    ),
    "an int score": (AttentionSpec(score=Q_IDX), "`score` must be a float, but this is an int", None),
    "a float mask": (
        AttentionSpec(mask=cast(Q_IDX, FLOAT)),
        "`mask` must be a bool, but this is a float",
        "compare it with something, as in `kv_idx < 10`",
    ),
    "a mask of the score": (
        AttentionSpec(mask=apply(Op.GT, SCORE, const(0.0))),
        "`mask` cannot depend on `score`",
        "a pair is also hidden where `score` is -inf: where(condition, score, -inf)",
    ),
    "an unknown capture": (
        AttentionSpec(score=load("slope", FLOAT, H), captures=(table("slopes"),)),
        "unknown captured tensor `slope`",
        "did you mean `slopes`?",
    ),
    "an unknown parameter": (
        AttentionSpec(mask=apply(Op.LT, KV_IDX, param("windw")), parameters=(Parameter("window", 3),)),
        "unknown parameter `windw`",
        "did you mean `window`?",
    ),
    "too many indices": (
        AttentionSpec(score=load("t", FLOAT, H, Q_IDX), captures=(table(),)),
        "`t` has 1 dimension, but is read with 2 indices",
        "write `t[i]`",
    ),
    "too few indices": (
        AttentionSpec(score=load("t", FLOAT, H), captures=(table(dims=("heads", "_")),)),
        "`t` has 2 dimensions, but is read with 1 index",
        "write `t[i, j]`",
    ),
    "an index into a number": (
        AttentionSpec(score=load("t", FLOAT, H), captures=(table(dims=()),)),
        "`t` has 0 dimensions, but is read with 1 index",
        "write `t`",
    ),
    "another kind": (
        AttentionSpec(score=load("t", FLOAT, H), captures=(table(scalar=INDEX),)),
        "`t` holds ints, but is read as a float",
        "read it as an int, and convert",
    ),
    "declared twice": (
        AttentionSpec(captures=(table(),), parameters=(Parameter("t", 1),)),
        "`t` is declared twice",
        "remove or rename one",
    ),
    "an unknown dimension": (
        AttentionSpec(captures=(table(dims=("length",)),)),
        "`t` has the dimension `length`",
        "a size, or one of `batch`, `heads`, `q_len`, `kv_len`, `_`",
    ),
    "a negative dimension": (
        AttentionSpec(captures=(table(dims=(-1,)),)),
        "`t` has the dimension `-1`",
        "a size, or one of `batch`, `heads`, `q_len`, `kv_len`, `_`",
    ),
    "a parameter beyond 64 bits": (
        AttentionSpec(parameters=(Parameter("n", 2**63),)),
        f"the parameter `n` is {2**63}, not an int of 64 bits",
        "choose one from -2**63 to 2**63 - 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_says_what_is_wrong_and_what_to_write(case: str):
    spec, message, hint = WRONG[case]
    with pytest.raises(LanguageError) as caught:
        verify(spec)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("name", sorted({*ARGUMENT_NAMES, *RESERVED_NAMES, "_", "two words", "", "1st", "größe"}))
def test_names_that_are_taken_or_not_names_are_refused(name: str):
    for spec in (AttentionSpec(captures=(table(name),)), AttentionSpec(parameters=(Parameter(name, 1),))):
        with pytest.raises(LanguageError, match="cannot be named"):
            verify(spec)


def test_mistakes_are_collected_in_the_order_of_the_text():
    read, other = load("t", FLOAT, Q_IDX), load("n", FLOAT, KV_IDX)
    mask = apply(Op.GT, read, SCORE)
    origins = {
        other: Origin(span("n[kv]")),
        mask: Origin(span("t[q] > score")),
        read: Origin(span("t[q]")),
        SCORE: Origin(span("score = n[kv]")),
    }
    with pytest.raises(LanguageErrors) as caught:
        verify(AttentionSpec(score=other, mask=mask, origins=origins))
    found = [(error.message, error.span.text if error.span else None) for error in caught.value.errors]
    assert found == [
        ("`mask` cannot depend on `score`", "t[q] > score"),
        ("unknown captured tensor `t`", "t[q]"),
        ("unknown captured tensor `n`", "n[kv]"),
    ]
    assert str(caught.value).count("variant.attn") == 3


def deep(levels: int) -> Expr:
    expr = SCORE
    for _ in range(levels - 1):
        expr = apply(Op.TANH, expr)
    return expr


def test_five_thousand_levels_pass_and_more_are_refused_with_a_place():
    verify(AttentionSpec(score=deep(MAX_DEPTH)))
    expr = deep(MAX_DEPTH + 1)
    with pytest.raises(LanguageError) as caught:
        verify(AttentionSpec(score=expr, origins={expr: Origin(span("n[kv]"))}))
    assert caught.value.message == "`score` is 5001 operations deep, and 5000 is the most"
    assert caught.value.span == span("n[kv]")


def test_captures_and_parameters_that_nothing_reads_are_allowed():
    verify(AttentionSpec(mask=TRUE, captures=(table(),), parameters=(Parameter("n", -5),)))

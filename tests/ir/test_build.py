"""Making expressions: promotion as in torch, folding as `evaluate` computes, and refusal of what has no meaning."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from attncc.errors import LanguageError
from attncc.ir import (
    FALSE,
    OPS,
    Q_IDX,
    SCORE,
    TRUE,
    Expr,
    Op,
    Scalar,
    apply,
    cast,
    conjunction,
    const,
    disjunction,
    load,
    narrow,
    node,
)
from attncc.ir.build import Rule
from attncc.ir.evaluate import EVALUATE
from attncc.ir.verify import check
from attncc.reference.dense import TORCH

P, R = load("p", Scalar.BOOL), load("r", Scalar.BOOL)
OF_KIND = {Scalar.BOOL: P, Scalar.INDEX: Q_IDX, Scalar.FLOAT: SCORE}
CONSTANTS = {Scalar.BOOL: True, Scalar.INDEX: 3, Scalar.FLOAT: 0.5}
DTYPES = {Scalar.BOOL: torch.bool, Scalar.INDEX: torch.int64, Scalar.FLOAT: torch.float32}
KINDS = list(itertools.product(Scalar, repeat=2))
#: Operations that promote in another way than torch, each with its reason.
DEVIATIONS = {
    Op.SUB: "torch also refuses a bool beside a number",
    Op.POW: "an int to a variable power could leave 64 bits",
    Op.FLOORDIV: "torch divides bools as ints of 8 bits",
    Op.MOD: "torch divides bools as ints of 8 bits",
    **dict.fromkeys((Op.AND, Op.OR, Op.XOR), "of ints they are bitwise, as `&` is in torch"),
    **dict.fromkeys((Op.BIT_AND, Op.BIT_OR, Op.BIT_XOR), "of bools these are AND, OR and XOR"),
    **dict.fromkeys((Op.SHIFT_LEFT, Op.SHIFT_RIGHT), "shifts are by constants"),
}


def made(op: Op, *operands: Expr) -> Expr | None:
    try:
        return apply(op, *operands)
    except LanguageError:
        return None


@pytest.mark.parametrize(
    "op", [op for op in OPS if OPS[op].arity == 2 and op not in DEVIATIONS], ids=lambda op: op.value
)
def test_two_operands_promote_as_torch_promotes(op: Op):
    for kinds in KINDS:
        expr = made(op, *(OF_KIND[kind] for kind in kinds))
        try:
            result = TORCH[op](*(torch.tensor(CONSTANTS[kind], dtype=DTYPES[kind]) for kind in kinds))
        except RuntimeError:
            assert expr is None, kinds
            continue
        assert expr is not None, kinds
        assert DTYPES[expr.scalar] is result.dtype, kinds
        check(expr)


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].arity == 2], ids=lambda op: op.value)
def test_whatever_is_made_is_well_formed(op: Op):
    for kinds in KINDS:
        for operands in ([OF_KIND[kind] for kind in kinds], [OF_KIND[kinds[0]], const(CONSTANTS[kinds[1]])]):
            expr = made(op, *operands)
            if expr is not None:
                check(expr)


def test_bools_among_themselves():
    assert apply(Op.ADD, P, R) is apply(Op.OR, P, R)
    assert apply(Op.MUL, P, R) is apply(Op.AND, P, R)
    assert apply(Op.MIN, P, R) is apply(Op.AND, P, R)
    assert apply(Op.MAX, P, R) is apply(Op.OR, P, R)
    with pytest.raises(LanguageError) as caught:
        apply(Op.SUB, P, R)
    assert caught.value.hint == "use `^` (exclusive or) or `& ~`"


def test_a_bool_beside_a_number_counts_as_zero_or_one():
    assert apply(Op.ADD, P, Q_IDX) is apply(Op.ADD, cast(P, Scalar.INDEX), Q_IDX)
    assert apply(Op.MUL, SCORE, P) is apply(Op.MUL, SCORE, cast(P, Scalar.FLOAT))


def test_where_takes_the_larger_kind_of_its_branches():
    assert apply(Op.WHERE, P, Q_IDX, const(0.0)).scalar is Scalar.FLOAT
    assert apply(Op.WHERE, P, R, const(1)).scalar is Scalar.INDEX
    with pytest.raises(LanguageError, match="the condition of `where` must be a bool, but this is an int"):
        apply(Op.WHERE, Q_IDX, SCORE, SCORE)


def test_rounding_an_int_is_the_int():
    for op in (Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC):
        assert apply(op, Q_IDX) is Q_IDX


def test_logic_of_ints_is_bitwise():
    assert apply(Op.AND, Q_IDX, const(3)) is apply(Op.BIT_AND, Q_IDX, const(3))
    assert apply(Op.NOT, Q_IDX) is apply(Op.SUB, const(-1), Q_IDX)


def test_conversion_to_bool_compares_with_zero():
    assert cast(SCORE, Scalar.BOOL) is apply(Op.NE, SCORE, const(0.0))
    assert cast(Q_IDX, Scalar.INDEX) is Q_IDX
    assert narrow(Q_IDX, "bfloat16").args == (cast(Q_IDX, Scalar.FLOAT),)


FOLDABLE = [op for op in OPS if op in EVALUATE]


@pytest.mark.parametrize("op", FOLDABLE, ids=lambda op: op.value)
def test_constants_fold_to_what_evaluation_gives(op: Op):
    values = {
        Rule.LOGIC: (True, False),
        Rule.BITS: (12, 5),
    }.get(OPS[op].rule, (0.75, 2.0))
    operands = (True, 0.75, 2.0) if op is Op.WHERE else values[: OPS[op].arity]
    expr = apply(op, *map(const, operands))
    expected = EVALUATE[op](*operands)
    assert expr is const(expected)


def test_folding_follows_ieee():
    assert apply(Op.DIV, const(1.0), const(0.0)) is const(math.inf)
    assert apply(Op.DIV, const(-1.0), const(0.0)) is const(-math.inf)
    assert apply(Op.LOG, const(0.0)) is const(-math.inf)
    assert apply(Op.SQRT, const(-1.0)) is const(math.nan)
    assert apply(Op.EXP, const(1000.0)) is const(math.inf)
    assert apply(Op.MAX, const(math.nan), const(1.0)) is const(math.nan)


REFUSED = {
    "wrong arity": (lambda: apply(Op.ADD, Q_IDX), "`add` takes 2 operands, not 1"),
    "leaves": (lambda: apply(Op.CONST), "`const` is not made by apply"),
    "division by zero": (lambda: apply(Op.FLOORDIV, Q_IDX, const(0)), "`//` by zero"),
    "remainder by zero": (lambda: apply(Op.MOD, Q_IDX, const(0)), "`%` by zero"),
    "a variable power": (lambda: apply(Op.POW, Q_IDX, Q_IDX), "an int can only be raised to a constant int"),
    "a negative power": (lambda: apply(Op.POW, Q_IDX, const(-1)), "an int can only be raised to a constant int"),
    "a large power": (lambda: apply(Op.POW, Q_IDX, const(64)), "the power 64 of an int does not fit"),
    "bits of a float": (lambda: apply(Op.BIT_AND, SCORE, const(1)), "defined on ints, not on floats"),
    "a variable shift": (lambda: apply(Op.SHIFT_LEFT, Q_IDX, Q_IDX), "shifted by a constant from 0 to 63"),
    "a long shift": (lambda: apply(Op.SHIFT_LEFT, Q_IDX, const(64)), "shifted by a constant from 0 to 63"),
    "logic of floats": (lambda: apply(Op.AND, SCORE, P), "needs bools, but an operand is a float"),
    "a constant too large": (lambda: apply(Op.MUL, const(2**62), const(2)), "does not fit in 64 bits"),
    "an int of nan": (lambda: cast(const(math.nan), Scalar.INDEX), "nan cannot become an int"),
    "another dtype": (lambda: narrow(SCORE, "float8"), "a score cannot be rounded to float8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_without_a_place(case: str):
    make, message = REFUSED[case]
    with pytest.raises(LanguageError, match=message) as caught:
        make()
    assert caught.value.span is None


def test_conjunctions_and_disjunctions_of_nothing_are_constants():
    assert conjunction() is TRUE
    assert disjunction() is FALSE
    assert conjunction(TRUE, P, TRUE) is P
    assert disjunction(FALSE, P, FALSE) is P
    assert conjunction(P, R) is node(Op.AND, (P, R), None, Scalar.BOOL)

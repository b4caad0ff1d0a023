"""The printer: what it prints is read back as the same nodes, and is what a person would write."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from attncc.errors import LanguageError
from attncc.frontend import parse
from attncc.ir import (
    KV_IDX,
    OPS,
    Q_IDX,
    SCORE,
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
    narrow,
    param,
    postorder,
    print_expr,
    print_spec,
)
from attncc.ir.naming import NOUNS
from attncc.ir.syntax import NAME, RESERVED_NAMES
from attncc.passes import lift, simplify
from attncc.source import Source, Span
from tests.share import share
from tests.strategies import chain, doubled, specs

DISTANCE = apply(Op.SUB, Q_IDX, KV_IDX)
CAUSAL = apply(Op.GE, Q_IDX, KV_IDX)
NEAR = apply(Op.LT, DISTANCE, const(8))
HEADER = """\
attention x(w: int = 8, n: int = 9):
  capture slopes: float[heads]
  capture ids: int[batch, _]
  capture seen: bool[_]
  capture heat: float
"""


@settings(max_examples=share(2000))
@given(specs())
def test_what_is_printed_is_read_back_as_the_same_spec(spec):
    text = print_spec(spec)
    again = parse(text)
    assert again == spec
    assert print_spec(again) == text


@settings(max_examples=share(500))
@given(specs())
def test_simplified_specs_are_read_back_too(spec):
    lifted = lift(spec)
    simple = replace(lifted, score=simplify(lifted.score), mask=simplify(lifted.mask))
    assert parse(print_spec(simple)) == simple


@settings(max_examples=share(500))
@given(specs())
def test_text_with_its_authors_names_and_origins_is_read_back_too(spec):
    spec = parse(print_spec(spec))
    assert parse(print_spec(spec, names="user", origins=True)) == spec


@settings(max_examples=share(500))
@given(specs())
def test_print_expr_says_what_the_spec_says(spec):
    body = [f"  {line}\n" for line in print_expr(spec.mask).splitlines()]
    declarations = print_spec(AttentionSpec("x", captures=spec.captures, parameters=spec.parameters))
    body[-1] = f"  mask = {body[-1].lstrip()}"
    assert parse(declarations.replace("  mask = true\n", "") + "".join(body)).mask is spec.mask


def cases() -> list[tuple[str, str]]:
    lines = (Path(__file__).resolve().parent.parent / "cases" / "printing.cases").read_text().splitlines()
    pairs = [line.split("  =>  ") for line in lines if line and not line.startswith("#")]
    return [(written, printed) for written, printed in pairs]


@pytest.mark.parametrize(("written", "printed"), cases())
def test_printing(written, printed):
    name = printed.rsplit("; ", 1)[-1].split(" = ", 1)[0]
    spec = parse(f"{HEADER}  a = q_idx\n  {name} = {written}\n")
    body = print_spec(spec).replace("q_idx", "a") if "q_idx" not in written else print_spec(spec)
    assert "; ".join(line.strip() for line in body.splitlines()[6:]) == printed
    assert parse(print_spec(spec)) == spec


def spec_of(expr: Expr) -> AttentionSpec:
    """A spec that holds an expression of any kind."""
    captures = (Capture("t", Scalar.FLOAT, ("heads",)),)
    if expr.scalar is Scalar.BOOL:
        return AttentionSpec("x", mask=expr, captures=captures)
    return AttentionSpec("x", score=cast(expr, Scalar.FLOAT), captures=captures)


def assert_round_trip(expr: Expr) -> None:
    spec = spec_of(expr)
    assert parse(print_spec(spec)) == spec, print_spec(spec)


CONSTANTS = (
    *(0, 1, -1, 2**63 - 1, -(2**63), 1.0, -1.0, 0.0, -0.0, 0.1, 1e16, 1e22, 5e-324, 1.7976931348623157e308, -2.5e-7),
    *(math.inf, -math.inf, math.nan, math.pi),
)


@pytest.mark.parametrize("value", CONSTANTS, ids=repr)
def test_constants_keep_their_kind_sign_and_bits(value):
    if isinstance(value, int):
        assert_round_trip(apply(Op.LE, KV_IDX, const(value)))
    assert_round_trip(apply(Op.MUL, SCORE, const(float(value))))
    assert_round_trip(const(float(value)))


MADE_OTHERWISE = (Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD, Op.CAST, Op.NARROW)
MIXTURES = ("bool", "int", "float", "bool int", "int bool", "int float", "float int", "bool float", "float bool")


@pytest.mark.parametrize("op", [op for op in OPS if op not in MADE_OTHERWISE])
@pytest.mark.parametrize("kinds", MIXTURES)
def test_every_operation_on_every_mixture_of_kinds_survives(op, kinds):
    leaves = {"bool": [CAUSAL, NEAR], "int": [Q_IDX, KV_IDX], "float": [load("t", Scalar.FLOAT, H), SCORE]}
    picked = [leaves[kind][i % 2] for i, kind in enumerate((kinds.split() * 3)[:3])]
    operands = [CAUSAL, *picked[:2]] if op is Op.WHERE else picked[: OPS[op].arity]
    if op in (Op.SHIFT_LEFT, Op.SHIFT_RIGHT) or (op is Op.POW and operands[0].scalar is Scalar.INDEX):
        operands[1] = const(3)
    try:
        made = apply(op, *operands)
    except LanguageError:
        return  # torch, too, sees no meaning
    if SCORE in operands and made.scalar is Scalar.BOOL:
        made = cast(made, Scalar.FLOAT)
    assert_round_trip(made)
    for scalar in (Scalar.FLOAT, Scalar.INDEX):
        converted = cast(made, scalar)
        assert_round_trip(converted)
        assert_round_trip(apply(Op.ADD, converted, cast(CAUSAL, Scalar.FLOAT)))
        assert_round_trip(apply(Op.SUB, cast(Q_IDX, Scalar.FLOAT), cast(converted, Scalar.FLOAT)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrowing_is_read_back(dtype):
    assert_round_trip(narrow(SCORE, dtype))
    assert_round_trip(apply(Op.ADD, narrow(Q_IDX, dtype), narrow(narrow(SCORE, dtype), "float16")))


@pytest.mark.parametrize("depth", [1, 39, 40, 41, 2000, 4990])
def test_deep_expressions_are_cut_into_names_and_read_back(depth):
    spec = spec_of(chain(depth))
    text = print_spec(spec)
    assert parse(text) == spec
    assert max(line.count("(") for line in text.splitlines()) <= 2 * 40
    assert text.count("\n") <= 5 + depth // 30


def test_shared_expressions_are_bound_once_and_not_repeated():
    spec = spec_of(doubled(300))
    text = print_spec(spec)
    assert parse(text) == spec
    assert len(text) < 300 * 80


def test_a_mask_that_the_score_uses_is_called_mask():
    spec = AttentionSpec("x", score=apply(Op.WHERE, CAUSAL, SCORE, const(-1e9)), mask=CAUSAL)
    assert print_spec(spec) == (
        "attn 1\nattention x:\n  mask = q_idx >= kv_idx\n  score = where(mask, score, -1000000000.0)\n"
    )
    assert parse(print_spec(spec)) == spec


def test_a_score_that_the_mask_uses_is_bound_to_a_name():
    shared = apply(Op.MUL, Q_IDX, const(0.5))
    spec = AttentionSpec("x", score=shared, mask=apply(Op.LT, shared, const(9.0)))
    assert print_spec(spec).splitlines()[2:] == [
        "  product = q_idx * 0.5",
        "  mask = product < 9.0",
        "  score = product",
    ]
    assert parse(print_spec(spec)) == spec


def test_plain_attention_says_that_every_pair_is_visible():
    assert print_spec(AttentionSpec("full")) == "attn 1\nattention full:\n  mask = true\n"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        *(("alibi", "alibi"), ("<lambda>", "lambda"), ("a.b c", "a_b_c"), ("2d", "_2d"), ("größe", "gr_e")),
        *(("attention", "variant"), ("def", "variant"), ("", "variant"), ("mask", "mask")),
    ],
)
def test_any_name_of_a_variant_can_be_read_back(name, printed):
    text = print_spec(AttentionSpec(name))
    assert text.splitlines()[1] == f"attention {printed}:"
    assert parse(text) == AttentionSpec(name)


def test_declarations_keep_their_order_sizes_and_values():
    captures = (
        Capture("zeta", Scalar.FLOAT, ("batch", "heads", "q_len", "kv_len", "_", 3)),
        Capture("alpha", Scalar.BOOL, ()),
        Capture("ids", Scalar.INDEX, (0, 1)),
    )
    parameters = (Parameter("window", -3), Parameter("block", 2**62))
    text = print_spec(AttentionSpec("x", captures=captures, parameters=parameters))
    assert text.splitlines()[1:5] == [
        "attention x(window: int = -3, block: int = 4611686018427387904):",
        "  capture zeta: float[batch, heads, q_len, kv_len, _, 3]",
        "  capture alpha: bool",
        "  capture ids: int[0, 1]",
    ]
    assert (parse(text).captures, parse(text).parameters) == (captures, parameters)


def test_bound_names_are_not_those_of_captures_parameters_or_functions():
    captures = (Capture("distance", Scalar.INDEX, ()), Capture("sum", Scalar.INDEX, ()))
    total = apply(Op.ADD, DISTANCE, load("sum", Scalar.INDEX))
    mask = apply(Op.LT, apply(Op.MUL, total, total), apply(Op.ADD, DISTANCE, load("distance", Scalar.INDEX)))
    spec = AttentionSpec("x", mask=apply(Op.AND, mask, NEAR), captures=captures)
    lines = print_spec(spec).splitlines()
    assert lines[4:6] == ["  distance_2 = q_idx - kv_idx", "  sum_2 = distance_2 + sum"]
    assert parse(print_spec(spec)) == spec


def test_every_operation_has_a_noun_that_can_be_a_name():
    assert set(NOUNS) == set(OPS)
    assert [noun for noun in NOUNS.values() if not NAME.fullmatch(noun) or noun in RESERVED_NAMES] == []


def test_the_authors_names_are_kept_where_asked():
    text = "attn 1\nattention x:\n  apart = q_idx - kv_idx\n  mask = apart > 3\n"
    assert print_spec(parse(text), names="user") == text
    assert "apart" not in print_spec(parse(text))


def test_an_authors_name_that_cannot_be_used_is_replaced():
    for name in ("score", "größe", "lambda x", "exp", "t"):
        spec = AttentionSpec(
            "x", mask=NEAR, captures=(Capture("t", Scalar.FLOAT, ()),), origins={DISTANCE: Origin(None, name)}
        )
        assert parse(print_spec(spec, names="user")) == spec


def test_origins_are_comments_with_file_and_line():
    spec = parse(Source("some/where/window.attn", "attention x:\n  mask = q_idx >= kv_idx\n\n  score = score * 2\n"))
    assert print_spec(spec, origins=True).splitlines()[2:] == [
        "  mask = q_idx >= kv_idx  # window.attn:2",
        "  score = score * 2.0  # window.attn:4",
    ]


def test_expressions_print_alone():
    assert print_expr(CAUSAL) == "q_idx >= kv_idx"
    assert print_expr(apply(Op.MUL, DISTANCE, DISTANCE)) == "distance = q_idx - kv_idx\ndistance * distance"
    clash = apply(Op.MUL, apply(Op.MUL, DISTANCE, DISTANCE), param("distance"))
    assert print_expr(clash).splitlines()[0] == "distance_2 = q_idx - kv_idx"


def test_printing_asks_for_no_sharing_that_is_not_there():
    spec = spec_of(doubled(10))
    assert len(postorder(parse(print_spec(spec)).score)) == len(postorder(spec.score))


def test_spans_do_not_change_what_is_printed():
    place = Span(Source("a", "a"), 0, 1)
    assert print_spec(AttentionSpec("x", mask=NEAR, origins={DISTANCE: Origin(place, "d")})) == print_spec(
        spec_of(NEAR)
    ).replace("  capture t: float[heads]\n", "")

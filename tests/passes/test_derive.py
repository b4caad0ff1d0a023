"""Derivatives against torch's autograd, SymPy and finite differences, ties and unselected branches included."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest
import sympy
import torch

from attncc.errors import InternalError
from attncc.ir import (
    KV_IDX,
    OPS,
    Q_IDX,
    SCORE,
    B,
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
    postorder,
    substitute,
)
from attncc.ir.build import Rule
from attncc.ir.functions import clamp, gelu, relu, silu, softplus
from attncc.ir.verify import check
from attncc.passes import derive, simplify
from attncc.passes.derive import FLAT
from attncc.reference import evaluate_dense
from attncc.reference.dense import TORCH, World, differentiate, observe
from tests.share import SEED, share
from tests.strategies import Problem, chain, doubled, random_expr

X = load("x", Scalar.FLOAT)
POINTS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, 0.37, -1.9, 1.25)
FLOAT_RULES = (Rule.NUMBER, Rule.FLOAT, Rule.ROUNDING, Rule.POWER)


def at(expr: Expr, score: float, x: float = 0.0) -> float:
    return float(evaluate(expr, {"score": score, "q_idx": 3}, lambda name, index: x))


def operands(op: Op) -> tuple[Expr, ...]:
    return (SCORE, X)[: OPS[op].arity]


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].rule in FLOAT_RULES], ids=lambda op: op.value)
def test_every_operation_has_the_derivative_that_torch_gives_it(op: Op):
    expr = apply(op, *operands(op))
    compared = 0
    for s in POINTS:
        for x in POINTS if OPS[op].arity == 2 else (0.0,):
            leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (s, x)][: OPS[op].arity]
            value = TORCH[op](*leaves)
            grads = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None, None]
            for wrt, grad in zip(operands(op), grads, strict=False):
                expected = 0.0 if grad is None else grad.item()
                actual = at(derive(expr, wrt), s, x)
                if math.isfinite(value.item()):
                    compared += 1
                    assert actual == pytest.approx(expected, rel=1e-12, nan_ok=True), (s, x, wrt)
    assert compared >= 6


@pytest.mark.parametrize("point", POINTS)
def test_functions_of_several_operations_have_torchs_derivative(point: float):
    functional = torch.nn.functional
    pairs = {
        "clamp": (clamp(SCORE, const(-1.0), const(2.0)), lambda t: torch.clamp(t, -1.0, 2.0)),
        "relu": (relu(SCORE), torch.relu),
        "silu": (silu(SCORE), functional.silu),
        "gelu": (gelu(SCORE), functional.gelu),
        "softplus": (softplus(SCORE), functional.softplus),
        "square": (apply(Op.POW, SCORE, const(2.0)), lambda t: t**2),
        "cube": (apply(Op.POW, SCORE, const(3.0)), lambda t: t**3),
        "first power": (apply(Op.POW, SCORE, const(1.0)), lambda t: t**1.0),
        "power of a constant": (apply(Op.POW, const(2.0), SCORE), lambda t: 2.0**t),
    }
    for name, (expr, function) in pairs.items():
        leaf = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(function(leaf), leaf)
        assert at(derive(expr, SCORE), point) == pytest.approx(expected.item(), rel=1e-12, abs=1e-15), name


def test_random_expressions_have_the_derivative_that_autograd_gives_the_reference(record_property):
    compared = aside = 0
    for seed in range(share(2000)):
        expr, problem = random_expr(SEED + seed, Scalar.FLOAT, 5)
        floats = [e for e in postorder(expr) if e is SCORE or (e.op is Op.LOAD and e.scalar is Scalar.FLOAT)]
        for wrt in floats[:3]:
            compared += 1
            aside += compare_with_autograd(expr, wrt, problem, rounded=seed % 3 == 0)
    record_property("set aside", (aside, compared))  # not finite somewhere
    assert aside <= 0.1 * compared


def compare_with_autograd(expr: Expr, wrt: Expr, problem: Problem, *, rounded: bool) -> bool:
    """Compare at every pair where all is finite; whether it is not so somewhere. Rounded scores make ties."""
    values, sizes = problem.values(), problem.sizes
    captures = {c.name: t for c, t in zip(problem.spec.captures, values.captures, strict=True)}
    shape = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    score = torch.randn(shape, dtype=torch.float64) * 2
    score = score.round() if rounded else score
    parameters = problem.named_parameters
    expected_value, leaf, actual = (
        evaluate_dense(e, sizes.inputs, captures, parameters, score=score) for e in (expr, wrt, derive(expr, wrt))
    )
    # The reference differentiates by tensors: a tensor of all its values takes the place of the leaf.
    probe = leaf.clone().requires_grad_()
    probed = substitute(expr, {wrt: load("probe", Scalar.FLOAT, B, H, Q_IDX, KV_IDX)})
    world = World(sizes.inputs, {**captures, "probe": probe}, parameters, score, torch.float64)
    everywhere = torch.ones(shape, dtype=torch.bool)
    value = differentiate(world, observe(world, probed), probed, everywhere).expand(shape).sum() + 0 * probe.sum()
    (expected,) = torch.autograd.grad(value, [probe])
    finite = actual.isfinite() & expected.isfinite() & expected_value.isfinite()
    torch.testing.assert_close(actual[finite], expected[finite], rtol=1e-9, atol=1e-9)
    return not finite.all()


def test_random_smooth_expressions_agree_with_finite_differences():
    compared = 0
    for seed in range(share(1500)):
        expr, problem = random_expr(SEED + seed, Scalar.FLOAT, 3)
        read = problem.loader(problem.values())
        derivative = derive(expr, SCORE)
        for score in (0.3141, -1.2345):
            step = 1e-6
            low, middle, high = (
                evaluate(expr, problem.inputs_at(0, 0, 0, 0, score + d), read) for d in (-step, 0.0, step)
            )
            central, left = (high - low) / (2 * step), (middle - low) / step
            actual = evaluate(derivative, problem.inputs_at(0, 0, 0, 0, score), read)
            # Between the two points lies a jump, a corner or a pole where the two quotients differ; float16 has steps.
            smooth = abs(central - left) < 1e-3 * (1 + abs(central)) and not any(
                e.op is Op.NARROW for e in postorder(expr)
            )
            if smooth and math.isfinite(actual) and abs(actual) < 1e3:
                compared += 1
                assert actual == pytest.approx(central, rel=1e-4, abs=1e-4), (seed, score)
    assert compared > share(1500)


SYMPY = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: lambda a, b: a / b,
    Op.POW: lambda a, b: a**b,
    Op.NEG: lambda a: -a,
    Op.ABS: sympy.Abs,
    Op.MIN: sympy.Min,
    Op.MAX: sympy.Max,
    Op.EXP: sympy.exp,
    Op.EXP2: lambda a: 2**a,
    Op.EXPM1: lambda a: sympy.exp(a) - 1,
    Op.LOG: sympy.log,
    Op.LOG2: lambda a: sympy.log(a, 2),
    Op.LOG1P: lambda a: sympy.log(1 + a),
    Op.SQRT: sympy.sqrt,
    Op.RSQRT: lambda a: 1 / sympy.sqrt(a),
    Op.TANH: sympy.tanh,
    Op.SIGMOID: lambda a: 1 / (1 + sympy.exp(-a)),
    Op.SIN: sympy.sin,
    Op.COS: sympy.cos,
    Op.ATAN: sympy.atan,
    Op.ERF: sympy.erf,
    Op.FLOOR: sympy.floor,
    Op.CEIL: sympy.ceiling,
    Op.FLOORDIV: lambda a, b: sympy.floor(a / b),
    Op.MOD: lambda a, b: a - b * sympy.floor(a / b),
}


@pytest.mark.parametrize("op", SYMPY, ids=lambda op: op.value)
def test_sympy_agrees(op: Op):
    s, x = sympy.symbols("s x", real=True)
    symbol = {SCORE: s, X: x}
    # The operation alone, and inside and around another function.
    outer = apply(Op.SIN, apply(op, *operands(op)))
    inner = apply(op, *(apply(Op.ADD, apply(Op.MUL, e, e), const(0.25)) for e in operands(op)))
    for expr in (apply(op, *operands(op)), outer, inner):
        for wrt in operands(op):
            theirs = sympy.diff(as_sympy(expr, symbol), symbol[wrt]).subs(sympy.Derivative(sympy.floor(s), s), 0)
            theirs = theirs.replace(sympy.Derivative, lambda *_: sympy.Integer(0)).replace(
                lambda e: isinstance(e, sympy.Subs), lambda _: sympy.Integer(0)
            )
            for point in ((0.3, 0.8), (1.7, 0.6), (2.4, 3.3)):
                expected = complex(theirs.subs({s: point[0], x: point[1]}).evalf())
                assert abs(expected.imag) < 1e-12
                assert at(derive(expr, wrt), *point) == pytest.approx(expected.real, rel=1e-9, abs=1e-12)


def as_sympy(root: Expr, symbol: dict[Expr, sympy.Symbol]) -> sympy.Expr:
    made: dict[Expr, sympy.Expr] = {}
    for expr in postorder(root):
        if expr in symbol:
            made[expr] = symbol[expr]
        elif expr.op is Op.CONST:
            made[expr] = sympy.Rational(str(expr.value))
        else:
            made[expr] = SYMPY[expr.op](*(made[arg] for arg in expr.args))
    return made[root]


def test_ties_follow_torch():
    for op in (Op.MIN, Op.MAX):
        expr = apply(op, SCORE, X)
        assert at(derive(expr, SCORE), 1.0, 1.0) == 0.5 == at(derive(expr, X), 1.0, 1.0)
        assert at(derive(apply(op, SCORE, SCORE), SCORE), 1.0) == 1.0
    assert at(derive(apply(Op.ABS, SCORE), SCORE), 0.0) == 0.0
    assert at(derive(clamp(SCORE, const(0.0), const(1.0)), SCORE), 0.0) == 1.0
    assert at(derive(apply(Op.MOD, SCORE, X), SCORE), 2.0, 1.0) == 1.0
    assert at(derive(apply(Op.MOD, SCORE, X), X), 7.0, 2.0) == -3.0


UNSELECTED = {
    "log": (apply(Op.WHERE, apply(Op.GT, SCORE, const(0.0)), apply(Op.LOG, SCORE), SCORE), 0.0, 1.0),
    "sqrt": (apply(Op.WHERE, apply(Op.GT, SCORE, const(0.0)), apply(Op.SQRT, SCORE), const(3.0)), 0.0, 0.0),
    "quotient": (apply(Op.WHERE, apply(Op.NE, SCORE, const(0.0)), apply(Op.DIV, const(1.0), SCORE), SCORE), 0.0, 1.0),
    "maximum": (apply(Op.MAX, apply(Op.LOG, SCORE), const(-5.0)), 0.0, 0.0),
    "shared": (
        apply(
            Op.ADD,
            apply(Op.WHERE, apply(Op.GT, SCORE, const(0.0)), apply(Op.LOG, apply(Op.TANH, SCORE)), const(1.0)),
            apply(Op.TANH, SCORE),
        ),
        0.0,
        1.0,
    ),
    "nested": (
        apply(
            Op.WHERE,
            apply(Op.GE, SCORE, const(0.0)),
            apply(Op.WHERE, apply(Op.GT, SCORE, const(0.0)), apply(Op.RSQRT, SCORE), apply(Op.MUL, SCORE, const(4.0))),
            apply(Op.LOG, SCORE),
        ),
        0.0,
        4.0,
    ),
}


@pytest.mark.parametrize("case", UNSELECTED)
def test_a_branch_that_was_not_selected_contributes_nothing(case: str):
    expr, score, expected = UNSELECTED[case]
    assert at(derive(expr, SCORE), score) == expected


def test_rounding_comparing_and_integers_have_derivative_zero():
    zero = const(0.0)
    for op in (Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC):
        assert derive(apply(op, SCORE), SCORE) is zero
    assert derive(apply(Op.FLOORDIV, SCORE, const(2.0)), SCORE) is zero
    assert derive(cast(apply(Op.LT, SCORE, X), Scalar.FLOAT), SCORE) is zero
    assert derive(cast(cast(SCORE, Scalar.INDEX), Scalar.FLOAT), SCORE) is zero
    assert derive(narrow(SCORE, "bfloat16"), SCORE) is const(1.0)


def test_each_read_of_a_capture_is_a_leaf_of_its_own():
    here, there = load("t", Scalar.FLOAT, Q_IDX), load("t", Scalar.FLOAT, apply(Op.ADD, Q_IDX, const(1)))
    expr = apply(Op.ADD, apply(Op.MUL, here, const(3.0)), apply(Op.MUL, there, const(5.0)))
    assert derive(expr, here) is const(3.0)
    assert derive(expr, there) is const(5.0)
    assert derive(expr, SCORE) is const(0.0)


def test_what_cannot_be_derived_by_is_refused():
    with pytest.raises(InternalError):
        derive(SCORE, Q_IDX)
    with pytest.raises(InternalError):
        derive(Q_IDX, SCORE)


def test_derivatives_stay_of_the_size_of_their_graph():
    for expr in (chain(2000), doubled(300)):
        start = time.process_time()
        made = derive(expr, SCORE)
        assert time.process_time() - start < 2.0
        assert len(postorder(made)) < 6 * len(postorder(expr))
        check(made)
        assert simplify(made) is made
    ratios: Counter[int] = Counter()
    for seed in range(share(300)):
        expr, _ = random_expr(seed, Scalar.FLOAT, 5)
        ratios[len(postorder(derive(expr, SCORE))) // len(postorder(expr))] += 1
    assert max(ratios) <= 10


def test_operations_without_a_derivative_are_the_flat_ones():
    assert {Op.FLOORDIV, Op.FLOOR, Op.LT, Op.AND, Op.CAST, Op.BIT_AND} <= FLAT
    assert not FLAT & {Op.ADD, Op.WHERE, Op.NARROW, Op.MOD, Op.POW}

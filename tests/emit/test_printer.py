"""Where lines are printed, under which names, and that the printed torch code means what the expression means."""

from __future__ import annotations

import math

import pytest
import torch

from attncc.analysis.shape import depends
from attncc.emit.names import Namer, describe
from attncc.emit.printer import Place, Printer, score_demand
from attncc.emit.spelling import TORCH
from attncc.ir import KV_IDX, OPS, Q_IDX, SCORE, B, Expr, H, Op, Scalar, apply, cast, const, load, postorder
from attncc.ir.build import Rule
from tests.share import share
from tests.strategies import random_expr

GROUP = Place("group", frozenset({"b", "h"}))
ROW = Place("row", frozenset({"b", "h", "q_idx"}))
TILE = Place("tile", frozenset({"b", "h", "q_idx", "kv_idx", "score"}))
LEAVES = {name: name for name in ("score", "b", "h", "q_idx", "kv_idx", "batch", "heads", "q_len", "kv_len")}


def printer(*roots: Expr, leaves: dict[str, str] | None = None, in_place: bool = True) -> Printer:
    def read(node, index):
        table = str(node.value)
        return f"{table}[{', '.join(f'torch.as_tensor({text.text})' for text in index)}]" if index else table

    demand = score_demand(*roots) if in_place else None
    return Printer(TORCH, Namer(()), {**LEAVES, **(leaves or {})}, read, demand=demand)


def lines(made: Printer, place: str) -> list[str]:
    return [str(line) for line in made.lines[place]]


def test_each_line_stands_in_the_outermost_place_that_can_hold_it():
    slope, distance = load("slopes", Scalar.FLOAT, H), apply(Op.SUB, Q_IDX, KV_IDX)
    ages = load("ages", Scalar.FLOAT, B, Q_IDX)
    root = apply(Op.ADD, apply(Op.SUB, SCORE, apply(Op.MUL, slope, distance)), apply(Op.EXP, ages))
    made = printer(root)
    made.print((GROUP, ROW, TILE), root)
    assert lines(made, "group") == ["head_slopes = slopes[torch.as_tensor(h)]"]
    assert lines(made, "row") == ["query_exp = torch.exp(ages[torch.as_tensor(b), torch.as_tensor(q_idx)])"] or lines(
        made, "row"
    ) == ["query_exponential = torch.exp(ages[torch.as_tensor(b), torch.as_tensor(q_idx)])"]
    assert len(lines(made, "tile")) == 2


def test_what_is_used_twice_is_printed_once():
    twice = apply(Op.TANH, cast(apply(Op.SUB, Q_IDX, KV_IDX), Scalar.FLOAT))
    root = apply(Op.ADD, apply(Op.MUL, twice, twice), SCORE)
    made = printer(root)
    made.print((GROUP, ROW, TILE), root)
    assert sum("torch.tanh" in line for line in lines(made, "tile")) == 1


def test_a_score_is_written_over_only_when_nothing_needs_it():
    tanh = apply(Op.TANH, apply(Op.DIV, SCORE, const(20.0)))
    slope = apply(Op.SUB, const(1.0), apply(Op.MUL, tanh, tanh))
    made = printer(tanh, slope)
    found = made.print((GROUP, ROW, TILE), tanh, slope)
    assert lines(made, "tile")[:2] == ["score.div_(20.0)", "score.tanh_()"]
    assert found[tanh].text == "score"
    assert lines(made, "tile")[2] == "score_product = score * score"


def test_a_name_is_never_given_twice():
    namer = Namer({"out"})
    assert [namer.take(name) for name in ("out", "x y", "x y", "1st", "lambda")] == [
        "out_2",
        "x_y",
        "x_y_2",
        "_1st",
        "lambda_2",
    ]


def test_names_say_what_they_hold():
    slope = load("slopes", Scalar.FLOAT, H)
    assert describe(slope, depends(slope)) == "head_slopes"
    distance = apply(Op.SUB, Q_IDX, KV_IDX)
    assert describe(distance, depends(distance)) == "pair_difference"


def test_every_operation_has_a_spelling():
    leaves = {op for op, row in OPS.items() if row.rule in (Rule.LEAF, Rule.CONVERSION)}
    assert set(Op) - leaves == set(TORCH.forms)


@pytest.mark.parametrize("part", range(10))
def test_printed_expressions_mean_what_they_say(part: int):
    count = -(-share(3000) // 10)
    for seed in range(part * count, (part + 1) * count):
        kind = (Scalar.FLOAT, Scalar.BOOL, Scalar.INDEX)[seed % 3]
        check_meaning(seed, *random_expr(seed, kind))


def check_meaning(seed: int, root: Expr, problem) -> None:
    """Compare the printed code with the table of `evaluate` at some pairs; without a score, which is written over."""
    if root.op is Op.CONST or any(e.op is Op.LOAD for e in postorder(root)):
        return
    names = problem.named_parameters
    made = printer(root, leaves=dict(zip(names, names, strict=True)))
    text = made.print((GROUP, ROW, TILE), root)[root].text
    code = "\n".join(line for place in ("group", "row", "tile") for line in lines(made, place))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        sizes = problem.sizes
        limits = {"b": sizes.batch, "h": sizes.heads, "q_idx": sizes.q_len, "kv_idx": sizes.kv_len}
        place = {n: int(torch.randint(0, size, (), generator=generator)) for n, size in limits.items()}
        score = float(torch.randn((), generator=generator, dtype=torch.float64))
        inputs = problem.inputs_at(**place, score=score)
        world = {n: torch.tensor([v]) for n, v in inputs.items()}
        world["score"] = torch.tensor([score], dtype=torch.float64)
        space = {**world, "torch": torch, "FLOAT": torch.float64, "NEG_INF": -math.inf}
        exec(code, space)
        found = torch.as_tensor(eval(text, space)).reshape(-1)[0].item()
        wanted = evaluated(root, inputs)
        same = found == wanted or (found != found and wanted != wanted)
        assert same or math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9), f"seed {seed}: {text}\n{code}"


def evaluated(root: Expr, inputs):
    from attncc.ir import evaluate

    return evaluate(root, inputs)

"""Variants that declare their parameters in another order share their kernels, and each keeps its values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import attncc
from attncc import pipeline
from attncc.api.program import program_of, read_functions
from attncc.frontend import parse
from attncc.ir import param
from attncc.passes.arrange import arrange
from attncc.schedule import Problem, Target
from tests.passes.test_order import TARGETS

#: A mask and a score with {0}, {1} and {2} for parameters, and other spellings of them.
SPELLINGS = (
    ("mask = q_idx >= kv_idx and (q_idx - kv_idx < {0} or kv_idx < {1})", "score"),
    ("mask = q_idx >= kv_idx and ({1} > kv_idx or q_idx < kv_idx + {0})", "score"),
    ("mask = kv_idx < {1} and kv_idx <= q_idx or kv_idx > q_idx - {0} and q_idx >= kv_idx", "score"),
)
THREE = (
    ("mask = q_idx // {0} == kv_idx // {0} and abs(q_idx - kv_idx) < {1}", "score + float(h * {2})"),
    ("mask = abs(kv_idx - q_idx) < {1} and kv_idx // {0} == q_idx // {0}", "score + float({2} * h)"),
)


def written(spelling: tuple[str, str], names: tuple[str, ...], order: tuple[int, ...], name: str = "page") -> str:
    declared = ", ".join(f"{names[i]}: int = {5 + 3 * i}" for i in order)
    mask, score = (part.format(*names) for part in spelling)
    return f"attn 1\nattention {name}({declared}):\n  {mask}\n  score = {score}\n"


def digests(text: str) -> tuple[str, ...]:
    spec = arrange(parse(text))
    return tuple(
        pipeline.lower(spec, Problem("float32" if name == "torch" else "bfloat16"), target).forward.digest
        for name, target in TARGETS.items()
    )


def test_the_order_and_the_names_of_two_parameters_do_not_count() -> None:
    names = (("w", "s"), ("near", "first"), ("zz", "aa"))
    found = {
        digests(written(spelling, each, order))
        for spelling, each, order in itertools.product(SPELLINGS, names, ((0, 1), (1, 0)))
    }
    assert len(found) == 1


def test_the_order_of_three_parameters_of_a_mask_and_a_score_does_not_count() -> None:
    found = {
        digests(written(s, ("d", "w", "c"), order)) for order in itertools.permutations(range(3)) for s in THREE[:1]
    }
    assert len(found) == 1
    arranged = {tuple(p.name for p in arrange(parse(written(s, ("d", "w", "c"), (2, 0, 1)))).parameters) for s in THREE}
    assert len(arranged) == 1


def test_parameters_in_each_other_s_place_are_another_variant() -> None:
    swapped = ("mask = q_idx >= kv_idx and (q_idx - kv_idx < {0} or kv_idx < {0} + {1})", "score")
    assert digests(written(swapped, ("w", "s"), (0, 1))) != digests(written(SPELLINGS[0], ("w", "s"), (0, 1)))


def test_arranging_again_changes_nothing_and_one_parameter_stays() -> None:
    for spelling in (*SPELLINGS, *THREE):
        spec = arrange(parse(written(spelling, ("d", "w", "c"), (2, 1, 0))))
        assert arrange(spec) == spec
    alone = parse("attn 1\nattention page(w: int = 4):\n  mask = q_idx - kv_idx < w\n")
    assert arrange(alone) is alone


def test_a_spec_that_cannot_be_lowered_is_left_to_its_first_call() -> None:
    spec = parse(written(SPELLINGS[0], ("w", "s"), (1, 0)))
    broken = replace(spec, mask=param("w"))
    assert arrange(broken) is broken


def closing_over(window: int, sink: int) -> Callable[..., Any]:
    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & ((kv_idx < sink) | (q_idx - kv_idx < window))

    return mask_mod


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_python_and_text_share_kernels_whatever_the_order(order: tuple[int, int]) -> None:
    python = read_functions(None, closing_over(5, 8), "page").program
    text = program_of(arrange(parse(written(SPELLINGS[0], ("w", "s"), order))))
    problem = Problem("float32"), Target("torch", "cpu")
    ours, theirs = (pipeline.lower_text(each.text, *problem).forward.digest for each in (python, text))
    assert ours == theirs


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_value_reaches_its_parameter(order: tuple[int, int]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 48, 16, requires_grad=True) for _ in range(3))
    text = attncc.loads(written(SPELLINGS[0], ("w", "s"), order))
    for window, sink in ((3, 1), (1, 7), (6, 2)):
        i = torch.arange(48)
        distance = i[:, None] - i[None]
        visible = (distance >= 0) & ((i[None] < sink) | (distance < window))
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        python = attncc.compile(mask_mod=closing_over(window, sink))
        for found in (text(q, k, v, w=window, s=sink), text.bind(s=sink, w=window)(q, k, v), python(q, k, v)):
            torch.testing.assert_close(found, wanted)
            grads, truth = (torch.autograd.grad(each.square().sum(), (q, k, v)) for each in (found, wanted))
            torch.testing.assert_close(grads, truth)
            wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def test_ints_that_torch_compile_leaves_open_reach_their_parameters() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 32, 16) for _ in range(3))
    text = attncc.loads(written(SPELLINGS[0], ("w", "s"), (1, 0)))
    compiled = torch.compile(lambda q, k, v, w, s: text(q, k, v, w=w, s=s), backend="aot_eager", fullgraph=True)
    for window, sink in ((3, 1), (1, 7), (6, 2)):
        torch.testing.assert_close(compiled(q, k, v, window, sink), text(q, k, v, w=window, s=sink))

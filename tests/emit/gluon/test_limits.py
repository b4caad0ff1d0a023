"""Masks that show each query the keys of a range or two are drawn as limits of rows, and are the same masks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from attncc import pipeline
from attncc.analysis import summarize_mask
from attncc.emit.gluon import kernels
from attncc.emit.gluon.limits import Limits, row_limits
from attncc.frontend import parse
from attncc.ir import AttentionSpec, Expr, Op, evaluate, postorder
from attncc.schedule import Facts, Problem
from attncc.variants.gallery import gallery
from tests.gluon.inspect import Instructions, inspect_kernel
from tests.gluon.launch import simulated
from tests.gluon.rendered import HOPPER, call
from tests.runtime.triton.cases import Case, dense, errors, outcome, triton

#: Variants of the gallery whose masks are limits of rows, whatever their parameters, and where these are positive.
ALWAYS = {
    *("causal", "causal_bottom_right", "prefix_lm", "prefix_lm_lengths", "sliding_window", "sliding_window_distance"),
    *("local_window", "bidirectional_window", "sink_window", "padding", "left_padding", "alibi", "forgetting"),
    *("sandwich", "kerple_log", "scalable_softmax", "head_windows", "streaming_heads", "windowed_soft_cap"),
    "capped_alibi",
}
POSITIVE = {"block_causal", "chunked_local", "block_diagonal", "block_local", "spatial_head"}


def limits_of(spec: AttentionSpec, *, positive: bool) -> tuple[Limits, ...] | None:
    return row_limits(summarize_mask(spec.mask), spec.mask, positive=positive)


def variant(mask: str, top: str = "") -> AttentionSpec:
    return pipeline.canonicalize(parse(f"attn 1\nattention limited{top}:\n  mask = {mask}\n"))


def test_variants_of_the_gallery_that_have_limits():
    specs = {name: call(name).spec for name in gallery()}
    assert {name for name, spec in specs.items() if limits_of(spec, positive=False)} == ALWAYS
    assert {name for name, spec in specs.items() if limits_of(spec, positive=True)} == ALWAYS | POSITIVE


@pytest.mark.parametrize("name", sorted(ALWAYS | POSITIVE))
def test_limits_show_the_pairs_that_the_mask_shows(name):
    made = call(name, 40)
    spec, numbers = made.spec, random.Random(name)
    positive = name in POSITIVE
    limits = limits_of(spec, positive=positive)
    assert limits is not None
    divisors = {str(e.args[1].value) for e in postorder(spec.mask) if e.op is Op.FLOORDIV and e.args[1].op is Op.PARAM}
    captures = {c.name: t for c, t in zip(spec.captures, made.captures, strict=True)}
    for _ in range(25):
        sizes = {"batch": 1, "heads": 2, "q_len": numbers.randint(1, 20), "kv_len": numbers.randint(1, 20)}
        parameters = {p.name: numbers.randint(1 if p.name in divisors else -6, 12) for p in spec.parameters}
        values = {
            n: torch.tensor(numbers.choices(range(-5, 22), k=t.numel())).view(t.shape)
            if not t.is_floating_point() and t.dtype != torch.bool
            else t
            for n, t in captures.items()
        }
        compare(spec.mask, limits, {**sizes, **parameters, "b": 0, "h": numbers.randint(0, 1)}, values)


def compare(mask: Expr, limits: tuple[Limits, ...], inputs: Mapping[str, int], captures: Mapping[str, Any]) -> None:
    """Whether limits and mask agree at every pair, and limits end inside the sequence."""

    def load(name: str, index: tuple[int, ...]) -> Any:
        return captures[name][index].item()

    for q_idx in range(inputs["q_len"]):
        row: dict[str, Any] = {**inputs, "q_idx": q_idx}
        ends = [
            (0 if each.start is None else evaluate(each.start, row, load), evaluate(each.stop, row, load))
            for each in limits
        ]
        assert all(start >= 0 and stop <= inputs["kv_len"] for start, stop in ends)
        for kv_idx in range(inputs["kv_len"]):
            shown = any(start <= kv_idx < stop for start, stop in ends)
            assert shown == evaluate(mask, {**row, "kv_idx": kv_idx}, load), (inputs, q_idx, kv_idx)


@pytest.mark.parametrize(
    ("mask", "top"),
    [
        ("q_idx >= kv_idx and q_idx % 3 == kv_idx % 3", ""),
        ("q_idx >= kv_idx and kv_idx != 5 and kv_idx != 9", ""),
        ("q_idx * q_idx >= kv_idx * kv_idx", ""),
        ("q_idx // block == kv_idx // block", "(block: int = 4)"),  # a divisor may be negative
        ("(q_idx - kv_idx) * 2 >= 1 and (q_idx + kv_idx) % 2 == 0", ""),
    ],
)
def test_other_masks_keep_their_predicate(mask, top):
    assert limits_of(variant(mask, top), positive=False) is None


def test_one_hidden_key_makes_two_ranges():
    spec = variant("q_idx >= kv_idx and kv_idx != 5")
    limits = limits_of(spec, positive=False)
    assert limits is None or len(limits) == 2
    if limits is not None:
        compare(spec.mask, limits, {"batch": 1, "heads": 1, "q_len": 12, "kv_len": 9, "b": 0, "h": 0}, {})


CHUNKS = (
    "attn 1\nattention chunks(chunk: int = 1000):\n  mask = q_idx >= kv_idx and q_idx // chunk == kv_idx // chunk\n"
)


def chunks(size: int) -> str:
    """The forward kernel that a call with chunks of this size takes."""
    problem = Problem("bfloat16", 64, 64, 2, 2, facts=Facts(1, 150, 150, (), (size,)))
    lowered = pipeline.lower(parse(CHUNKS), problem, HOPPER)
    assert lowered.triton_forward is not None
    return lowered.triton_forward().passes["forward"].kernel.source.text


def test_divisors_are_positive_where_the_call_says_so():
    assert chunks(100) == chunks(7)
    assert "columns_before" in chunks(100)
    assert "columns_before" not in chunks(-100)
    assert "columns_before" not in chunks(0)


@pytest.mark.parametrize("size", [100, 7, -100])
def test_chunks_agree_with_the_reference_whatever_their_sign(size):
    spec = pipeline.canonicalize(parse(CHUNKS))
    numbers = torch.Generator().manual_seed(size)
    own = tuple(torch.randn(1, 2, 150, 64, generator=numbers).bfloat16().double() for _ in range(3))
    case = Case(spec, own, (), (size,))  # type: ignore[arg-type]  # three of them
    with simulated():
        found = outcome(triton(case), *case.tensors(torch.bfloat16))
    assert max(errors(found, outcome(dense(case), *case.tensors(torch.float64)))) < 3 * 2**-8


def test_limits_of_wrong_rows_are_seen(monkeypatch):
    right = kernels.draw_limits

    def wrong(*given: Any) -> str:
        return right(*given).replace("row_stop - kv_start", "row_stop + 1 - kv_start")

    spec = variant("q_idx >= kv_idx and q_idx - kv_idx < 37")  # a spec of its own: drawn here for the first time
    numbers = torch.Generator().manual_seed(1)
    own = tuple(torch.randn(1, 1, 150, 64, generator=numbers).bfloat16().double() for _ in range(3))
    case = Case(spec, own, (), ())  # type: ignore[arg-type]  # three of them
    monkeypatch.setattr(kernels, "draw_limits", wrong)
    with simulated(), torch.no_grad():
        found, _ = triton(case)(*case.tensors(torch.bfloat16)[0], [])
    wanted, _ = dense(case)(*case.own, [])
    assert max(errors([found], [wanted])) > 2**-4


#: Instructions of the whole kernel with limits of rows, as a share of those with the predicate at each pair.
SHARES = {"causal": 0.8, "sliding_window": 0.75, "block_causal": 0.6}


@pytest.mark.parametrize("name", SHARES)
def test_limits_take_fewer_instructions(name, monkeypatch):
    limited = compiled(name)
    monkeypatch.setattr(kernels, "row_limits", lambda *_, **__: None)
    assert limited.length < SHARES[name] * compiled(name).length


def compiled(name: str) -> Instructions:
    """The forward kernel of a variant, drawn anew."""
    problem = Problem("bfloat16", 128, 128, 4, 4, positive=True)
    lowered = pipeline.lower(call(name).written, problem, HOPPER, lambda *_: None)
    assert lowered.triton_forward is not None
    found = inspect_kernel(lowered.triton_forward().passes["forward"].kernel)
    assert found.messages == ()
    return found.instructions

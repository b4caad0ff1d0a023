"""Masks that show each query the keys of a range or two are drawn as limits of rows, and are the same masks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from attncc import pipeline
from attncc.analysis import summarize_mask
from attncc.analysis.logic import parts
from attncc.emit.gluon import kernels
from attncc.emit.gluon.limits import Limits, split_mask
from attncc.frontend import parse
from attncc.ir import KV_LEN, TRUE, AttentionSpec, Expr, Op, evaluate, postorder
from attncc.schedule import Facts, Problem
from attncc.variants.gallery import gallery
from tests.gluon.inspect import Instructions, inspect_kernel
from tests.gluon.launch import simulated
from tests.gluon.rendered import HOPPER, call
from tests.runtime.triton.cases import Case, dense, errors, outcome, triton
from tests.share import share

#: Variants of the gallery whose masks are limits of rows, whatever their parameters, and where these are positive.
ALWAYS = {
    *("causal", "causal_bottom_right", "prefix_lm", "prefix_lm_lengths", "sliding_window", "sliding_window_distance"),
    *("local_window", "bidirectional_window", "sink_window", "padding", "left_padding", "alibi", "forgetting"),
    *("sandwich", "kerple_log", "scalable_softmax", "head_windows", "streaming_heads", "windowed_soft_cap"),
    *("capped_alibi", "document_starts", "neighborhood_1d"),
}
#: The same of a part of the mask; and of what reads captured tensors beside the sequence, which `compare` leaves out.
PARTS = {
    *("dilated_window", "strided", "fixed_summary", "causal_documents", "adaptive_span", "context_sharding", "halo_2d"),
    *("hash_buckets", "local_and_strided_heads", "packed_window_alibi", "selected_blocks", "shifted_window_2d"),
    *("neighborhood_2d", "dilated_neighborhood_1d", "strided_neighborhood_2d"),
}
POSITIVE = {"block_causal", "chunked_local", "block_diagonal", "block_local", "spatial_head"}


def split(spec: AttentionSpec, *, positive: bool) -> tuple[tuple[Limits, ...], Expr]:
    return split_mask(summarize_mask(spec.mask), spec.mask, positive=positive)


def is_limited(spec: AttentionSpec, *, positive: bool) -> bool:
    """Whether nothing is left of a mask but limits."""
    return spec.mask is not TRUE and split(spec, positive=positive)[1] is TRUE


def variant(mask: str, top: str = "") -> AttentionSpec:
    return pipeline.canonicalize(parse(f"attn 1\nattention limited{top}:\n  mask = {mask}\n"))


def test_variants_of_the_gallery_that_have_limits():
    specs = {name: call(name).spec for name in gallery()}
    assert {name for name, spec in specs.items() if is_limited(spec, positive=False)} == ALWAYS
    assert {name for name, spec in specs.items() if is_limited(spec, positive=True)} == ALWAYS | POSITIVE
    kept = {name: split(spec, positive=True)[1] for name, spec in specs.items()}
    assert {name for name, rest in kept.items() if rest not in (TRUE, specs[name].mask)} == PARTS


@pytest.mark.parametrize("name", sorted(ALWAYS | POSITIVE | PARTS))
def test_limits_show_the_pairs_that_the_mask_shows(name):
    made = call(name, 40)
    spec, numbers = made.spec, random.Random(name)
    positive = name not in ALWAYS
    limits, rest = split(spec, positive=positive)
    divided = [e.args[1] for e in postorder(spec.mask) if e.op in (Op.FLOORDIV, Op.MOD)]
    divisors = {str(e.value) for e in postorder(*divided) if e.op is Op.PARAM}
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
        compare(spec.mask, limits, rest, {**sizes, **parameters, "b": 0, "h": numbers.randint(0, 1)}, values)


def compare(
    mask: Expr, limits: tuple[Limits, ...], rest: Expr, inputs: Mapping[str, int], captures: Mapping[str, Any]
) -> None:
    """Whether limits and the rest agree with the mask at every pair, and limits end inside the sequence."""

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
            pair = {**row, "kv_idx": kv_idx}
            shown = any(start <= kv_idx < stop for start, stop in ends) and evaluate(rest, pair, load)
            assert shown == evaluate(mask, pair, load), (inputs, q_idx, kv_idx)


@pytest.mark.parametrize(
    ("mask", "top", "left"),
    [
        ("q_idx >= kv_idx and q_idx % 3 == kv_idx % 3", "", 1),
        ("q_idx * q_idx >= kv_idx * kv_idx", "", 1),
        ("q_idx // block == kv_idx // block", "(block: int = 4)", 1),  # a divisor may be negative
        ("(q_idx - kv_idx) * 2 >= 1 and (q_idx + kv_idx) % 2 == 0 and q_idx ^ kv_idx != 3", "", 2),
        ("q_idx >= kv_idx or q_idx % 3 == kv_idx % 3", "", 1),
        ("q_idx * q_idx <= kv_idx and 7 > kv_idx and 1 < kv_idx", "", 0),
    ],
)
def test_what_is_no_limit_is_left_of_the_mask(mask, top, left):
    spec = variant(mask, top)
    limits, rest = split(spec, positive=False)
    assert len([each for each in parts(Op.AND, rest) if each is not TRUE]) == left
    inputs = {"batch": 1, "heads": 1, "q_len": 12, "kv_len": 9, "b": 0, "h": 0, "block": -4}
    compare(spec.mask, limits, rest, inputs, {})


def test_one_hidden_key_leaves_two_ranges_or_a_predicate():
    spec = variant("q_idx >= kv_idx and kv_idx != 5")
    limits, rest = split(spec, positive=False)
    assert len(limits) == 2 or rest is not TRUE
    compare(spec.mask, limits, rest, {"batch": 1, "heads": 1, "q_len": 12, "kv_len": 9, "b": 0, "h": 0}, {})


def drawn(numbers: random.Random, depth: int = 2) -> str:
    """A mask of comparisons of sums, products, quotients and remainders of positions and the parameters w and c."""
    if depth and numbers.random() < 0.65:
        joint = numbers.choice([" and ", " and ", " or "])
        return f"({joint.join(drawn(numbers, depth - 1) for _ in range(numbers.randint(2, 3)))})"
    forms = ("{0}", "{0}", "{0} + {1}", "{0} - w", "2 * {0}", "{0} * w", "{0} // 3", "{0} // c", "{0} % c", "w * c")
    sides = [numbers.choice(forms).format(name, numbers.randint(-4, 4)) for name in ("q_idx", "kv_idx")]
    numbers.shuffle(sides)
    return numbers.choice(["<", "<=", ">", ">=", "=="]).join(f" {side} " for side in sides)


@pytest.mark.parametrize("seed", range(share(160)))
def test_random_masks_are_their_limits_and_what_is_left(seed):
    numbers = random.Random(seed)
    spec, positive = variant(drawn(numbers), "(w: int = 3, c: int = 4)"), bool(seed % 2)
    limits, rest = split(spec, positive=positive)
    for _ in range(6):
        inputs = {"batch": 1, "heads": 1, "b": 0, "h": 0, "w": numbers.randint(-5, 9)}
        inputs |= {name: numbers.randint(1, 14) for name in ("q_len", "kv_len")}
        inputs["c"] = numbers.choice((1, 2, 3, 4, 7) if positive else (-3, -1, 1, 2, 5))
        compare(spec.mask, limits, rest, inputs, {})


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
    assert "row_start" in chunks(100)
    assert "row_start" not in chunks(-100)
    assert "row_start" not in chunks(0)


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

    def wrong(*given: Any, **options: Any) -> str:
        return right(*given, **options).replace("row_stop - kv_start", "row_stop + 1 - kv_start")

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
    monkeypatch.setattr(kernels, "split_mask", lambda shape, mask, **_: ((Limits(None, KV_LEN),), mask))
    assert limited.length < SHARES[name] * compiled(name).length


def compiled(name: str) -> Instructions:
    """The forward kernel of a variant, drawn anew."""
    problem = Problem("bfloat16", 128, 128, 4, 4, positive=True)
    lowered = pipeline.lower(call(name).written, problem, HOPPER, lambda *_: None)
    assert lowered.triton_forward is not None
    found = inspect_kernel(lowered.triton_forward().passes["forward"].kernel)
    assert found.messages == ()
    return found.instructions

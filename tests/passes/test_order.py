"""Masks that differ only in the order of their parts have one form, and share their kernels."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from attncc import pipeline
from attncc.frontend import parse, trace_functions
from attncc.ir import AttentionSpec, evaluate, print_expr
from attncc.passes.order import order
from attncc.schedule import Problem, Target
from tests.analysis.masks import Draw
from tests.commands.test_diff import EQUAL, text
from tests.share import share

TARGETS = {"torch": Target("torch", "cpu"), "triton": Target("triton", "cuda", "sm_90")}
#: What runs on the host names captured tensors in its errors, so that its text is not another author's.
NAMED = {("captures", "torch"), ("captures", "triton")}


def digest(written: str, backend: str) -> str:
    spec = parse(written)
    kinds = tuple("int64" for _ in spec.captures)
    problem = Problem("float32" if backend == "torch" else "bfloat16", capture_dtypes=kinds)
    return pipeline.lower(spec, problem, TARGETS[backend]).forward.digest


@pytest.mark.parametrize("backend", TARGETS)
@pytest.mark.parametrize("name", EQUAL)
def test_equal_masks_share_their_kernels(name: str, backend: str) -> None:
    ours, theirs = EQUAL[name]
    assert (digest(ours, backend) == digest(theirs, backend)) != ((name, backend) in NAMED)


@pytest.mark.parametrize("backend", TARGETS)
def test_a_bound_on_both_sides_has_one_spelling(backend: str) -> None:
    within = (
        "abs(q_idx - kv_idx) < w",
        "q_idx - kv_idx < w and q_idx - kv_idx > -w",
        "-w < kv_idx - q_idx and kv_idx - q_idx < w",
    )
    beyond = (
        "abs(kv_idx - q_idx) >= 7",
        "q_idx - kv_idx >= 7 or q_idx - kv_idx <= -7",
        "7 <= kv_idx - q_idx or q_idx - kv_idx >= 7",
    )
    kernels = [{digest(text(mask), backend) for mask in masks} for masks in (within, beyond)]
    assert [len(each) for each in kernels] == [1, 1]
    one_sided = (
        "q_idx - kv_idx < w",
        "q_idx - kv_idx < w and q_idx - kv_idx >= -w",
        "q_idx - kv_idx < w or kv_idx - q_idx < w",
    )
    assert len({digest(text(mask), backend) for mask in one_sided} | kernels[0]) == 4


#: Masks that are equal, each line in several spellings.
SPELLINGS = (
    (
        "q_idx - kv_idx < w",
        "q_idx < kv_idx + w",
        "kv_idx > q_idx - w",
        "q_idx - kv_idx <= w - 1",
        "kv_idx - q_idx > -w",
    ),
    ("q_idx - kv_idx < 8", "q_idx - kv_idx <= 7", "q_idx < kv_idx + 8", "kv_idx >= q_idx - 7"),
    ("kv_idx - q_idx >= 3", "q_idx <= kv_idx - 3", "q_idx + 2 < kv_idx"),
    ("q_idx > kv_idx", "q_idx >= kv_idx + 1", "kv_idx + 1 <= q_idx"),
    ("q_idx - kv_idx == w", "q_idx == kv_idx + w", "kv_idx == q_idx - w"),
    ("kv_idx < s", "kv_idx <= s - 1", "kv_idx + 1 <= s"),
    ("abs(q_idx - kv_idx) <= w", "kv_idx + w >= q_idx and kv_idx <= q_idx + w"),
    (
        "q_idx >= kv_idx and (kv_idx < s or q_idx - kv_idx < w)",
        "q_idx >= kv_idx and kv_idx < s or q_idx < kv_idx + w and kv_idx <= q_idx",
    ),
    (
        "b == 1 or h < 2 and (q_idx >= kv_idx or kv_idx < s)",
        "(q_idx >= kv_idx and h < 2) or b == 1 or (kv_idx < s and h <= 1)",
    ),
    ("kv_idx < s or q_idx >= kv_idx and h < 2", "(kv_idx < s or h < 2) and (q_idx >= kv_idx or kv_idx < s)"),
)


@pytest.mark.parametrize("masks", SPELLINGS)
def test_spellings_of_one_mask_share_their_kernels(masks: tuple[str, ...]) -> None:
    for backend in TARGETS:
        assert len({digest(text(mask), backend) for mask in masks}) == 1
    wanted = print_expr(parse(text(masks[0])).mask)
    assert {print_expr(pipeline.canonicalize(parse(text(mask))).mask) for mask in masks} == {wanted}


def test_what_could_overflow_on_the_other_side_stays_where_it_is() -> None:
    for mask in ("q_idx + kv_len - q_len >= kv_idx", "q_idx + 3 < w", "q_idx + s >= w", "kv_idx > -w"):
        spec = parse(text(mask))
        assert order(spec.mask, spec) is spec.mask


def test_captures_of_any_name_share_what_is_compiled() -> None:
    compiled = []
    for written in EQUAL["captures"]:
        problem = Problem("bfloat16", capture_dtypes=("int64",))
        made = pipeline.lower(parse(written), problem, TARGETS["triton"]).triton_forward
        assert made is not None
        compiled.append({name: each.kernel.source.digest for name, each in made().passes.items()})
    assert compiled[0]
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize("backend", TARGETS)
def test_masks_that_differ_have_kernels_of_their_own(backend: str) -> None:
    masks = ("q_idx >= kv_idx", "q_idx > kv_idx", "q_idx >= kv_idx and q_idx - kv_idx < w", "q_idx - kv_idx < 5")
    assert len({digest(text(mask), backend) for mask in (*masks, "q_idx - kv_idx < 6")}) == 5


def test_parts_are_read_from_short_to_long_with_positions_on_the_left() -> None:
    spec = parse(text("w > q_idx - kv_idx and (kv_idx <= q_idx and s > kv_idx) and q_idx >= kv_idx"))
    first, second, third = print_expr(order(spec.mask, spec)).split(" and ")
    assert {first, second} == {"q_idx >= kv_idx", "kv_idx < s"}
    assert third == "q_idx - kv_idx < w"


def test_order_changes_no_value_and_keeps_what_is_in_order() -> None:
    spec = parse(text("q_idx >= kv_idx"))
    for seed in range(share(400)):
        mask, r = Draw(seed, captures=False).mask(), random.Random(seed)
        made = order(mask, spec)
        assert order(made, spec) is made
        for _ in range(5):
            values = {n: r.randrange(20) for n in ("b", "h", "q_idx", "kv_idx")}
            values |= {n: r.randrange(20, 30) for n in ("batch", "heads", "q_len", "kv_len")} | {"w": 7, "s": 3}
            try:
                assert evaluate(made, values) == evaluate(mask, values)
            except (ZeroDivisionError, OverflowError, ValueError):
                continue


NEAR = 0.5  # a global that a traced function reads


def distance(q_idx: Any, kv_idx: Any) -> Any:
    return q_idx - kv_idx


def made_of(reach: float, helper: Callable[[Any, Any], Any], window: int) -> AttentionSpec:
    def near(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (helper(q_idx, kv_idx) < window) & (helper(q_idx, kv_idx) * NEAR < reach)

    return trace_functions(None, near).spec


@pytest.mark.parametrize("backend", TARGETS)
def test_what_a_function_closes_over_changes_its_kernel_where_it_matters(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest_of(spec: AttentionSpec) -> str:
        return pipeline.lower(spec, Problem("bfloat16"), TARGETS[backend]).forward.digest

    first = digest_of(made_of(9.0, distance, 4))
    assert digest_of(made_of(9.0, lambda q, kv: q - kv, 4)) == first  # the same helper by another name
    assert digest_of(made_of(9.0, distance, 5)) == first  # a closed-over int is an argument of the kernel
    others = [made_of(8.0, distance, 4), made_of(9.0, lambda q, kv: q - kv + 1, 4)]
    monkeypatch.setattr(sys.modules[__name__], "NEAR", 0.25)
    others.append(made_of(9.0, distance, 4))
    assert len({first, *map(digest_of, others)}) == 4


@pytest.mark.parametrize("backend", TARGETS)
def test_python_and_text_share_their_kernels(backend: str) -> None:
    def python(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx - kv_idx < w) & (kv_idx <= q_idx)

    w = 9
    problem = Problem("float32" if backend == "torch" else "bfloat16")
    spec = trace_functions(None, python).spec
    ours = pipeline.lower(spec, problem, TARGETS[backend]).forward.digest
    assert ours == digest(text("q_idx >= kv_idx and q_idx - kv_idx < w", parameters="w: int = 9"), backend)

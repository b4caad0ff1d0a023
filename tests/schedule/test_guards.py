"""What is proven to need no guard, and where a pair depends on what cannot be read."""

from __future__ import annotations

import itertools

import pytest

from attncc.frontend import parse
from attncc.ir import FALSE, AttentionSpec, evaluate, print_expr
from attncc.schedule import call_box, guard, loads_of, prove_divisions, prove_loads, size_name

SIZES = {"batch": 2, "heads": 4, "q_len": 8, "kv_len": 8}


def spec_of(mask: str = "true", score: str = "score", parameters: str = "width: int = 4") -> AttentionSpec:
    text = f"attn 1\nattention one({parameters}):\n  capture table: float[_]\n  capture ids: int[_]\n"
    return parse(f"{text}  keep = table[0] * 0.0 + float(ids[0]) * 0.0\n  mask = {mask}\n  score = {score} + keep\n")


def proven(index: str, size: int, width: int = 4) -> bool:
    spec = spec_of(score=f"score + table[{index}]")
    box = call_box(SIZES, {"width": width})
    numbers = prove_loads(spec, box, {"table": (size,), "ids": (8,)})
    return numbers == frozenset(range(len(loads_of(spec))))


@pytest.mark.parametrize(
    ("index", "size", "holds"),
    [
        ("h", 4, True),
        ("h", 3, False),
        ("q_idx - kv_idx + 7", 15, True),
        ("q_idx - kv_idx + 7", 14, False),
        ("q_idx - kv_idx", 8, True),  # negative indices down to -8 count from the end
        ("q_idx - kv_idx", 7, False),
        ("min(abs(q_idx - kv_idx), width)", 5, True),
        ("min(abs(q_idx - kv_idx), width)", 4, False),
        ("q_idx // width", 2, True),
        ("ids[q_idx]", 8, False),
    ],
)
def test_reads_are_proven_for_the_sizes_of_a_call(index, size, holds):
    assert proven(index, size) == holds


@pytest.mark.parametrize(("width", "holds"), [(4, True), (-2, True), (0, False)])
def test_divisors_are_proven_for_the_parameters_of_a_call(width, holds):
    spec = spec_of(mask="q_idx // width == kv_idx // width")
    assert (len(prove_divisions(spec, call_box(SIZES, {"width": width}))) == 2) == holds


def test_a_proven_spec_is_left_alone():
    spec = spec_of(score="score + table[h]")
    found = guard(spec, frozenset(range(3)), frozenset())
    assert found.spec is spec
    assert found.beyond is FALSE


@pytest.mark.parametrize(
    ("mask", "doubtful"),
    [
        ("table[kv_idx] > 0.0", lambda q, kv: kv >= 4),
        ("kv_idx < 4 and table[kv_idx] > 0.0", lambda q, kv: False),
        ("kv_idx >= 4 or table[kv_idx] > 0.0", lambda q, kv: False),
        ("where(kv_idx < 4, table[kv_idx] > 0.0, q_idx > 2)", lambda q, kv: False),
        ("table[kv_idx - 6] > 0.0", lambda q, kv: kv - 6 < -4),
        ("q_idx % (kv_idx - 3) == 0", lambda q, kv: kv == 3),
        ("kv_idx != 3 and q_idx % (kv_idx - 3) == 0", lambda q, kv: False),
    ],
)
def test_doubtful_pairs_are_those_that_depend_on_what_cannot_be_read(mask, doubtful):
    found = guard(spec_of(mask=mask), frozenset(), frozenset())
    sizes = {**SIZES, size_name("table", 0): 4, size_name("ids", 0): 8, "width": 4, "b": 0, "h": 0, "score": 0.0}
    for q, kv in itertools.product(range(8), range(8)):
        inputs = {**sizes, "q_idx": q, "kv_idx": kv}
        seen = evaluate(found.beyond, inputs, lambda name, index: 1.0 if name == "table" else 1)
        assert seen == doubtful(q, kv), f"{q}, {kv}: {print_expr(found.beyond)}"
        if seen:
            assert evaluate(found.spec.mask, inputs, lambda name, index: 0.0) is True

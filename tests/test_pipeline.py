"""Lowering: its stages in order, its memory, and that a text alone is enough."""

from __future__ import annotations

import concurrent.futures
import dataclasses

from attncc import pipeline
from attncc.frontend import parse
from attncc.ir import TRUE, print_spec
from attncc.schedule import TORCH_CPU, Facts, Gradients, Problem

TEXT = """attn 1
attention near(window: int = 8):
  capture slopes: float[heads]
  score = where(q_idx - kv_idx < window, score - slopes[h], -inf)
"""
PROBLEM = Problem(heads=4, kv_heads=4, capture_dtypes=("float32",), gradients=Gradients(captures=(True,)))


def test_stages_come_in_order_and_show_their_results():
    seen = []
    pipeline.lower(parse(TEXT), PROBLEM, TORCH_CPU, lambda stage, value: seen.append(stage))
    assert seen == [
        "verify",
        "lift",
        "simplify",
        "order",
        "tiles",
        "guard",
        "schedule",
        "forward",
        "derive",
        "backward",
    ]


def test_hidden_pairs_are_lifted_into_the_mask():
    found = pipeline.lower(parse(TEXT), PROBLEM, TORCH_CPU)
    assert found.spec.mask is TRUE
    assert found.canonical.mask is not TRUE
    assert found.tile_test.visit is not TRUE


def test_no_backward_kernel_without_gradients():
    found = pipeline.lower(parse(TEXT), dataclasses.replace(PROBLEM, gradients=None), TORCH_CPU)
    assert found.backward is None
    assert found.differentiable == (True,)


def test_results_are_remembered():
    ours, theirs = (pipeline.lower(parse(TEXT), PROBLEM, TORCH_CPU) for _ in range(2))
    assert ours.forward is theirs.forward


def test_each_author_reads_their_own_names():
    named = TEXT.replace("  score =", "  far = q_idx - kv_idx\n  score =").replace(
        "where(q_idx - kv_idx <", "where(far <"
    )
    renamed = named.replace("far", "gap")
    ours, theirs = (pipeline.lower(parse(text), PROBLEM, TORCH_CPU).forward for text in (named, renamed))
    assert ours.digest == theirs.digest
    assert "far = q_idx - kv_idx" in ours.text
    assert "gap = q_idx - kv_idx" in theirs.text


def test_a_text_that_was_never_seen_is_parsed():
    text = print_spec(parse(TEXT.replace("near", "unseen").replace("= 8", "= 9")))
    assert pipeline.lower_text(text, PROBLEM, TORCH_CPU).forward.digest


def test_facts_decide_only_which_reads_are_guarded():
    def kernel(shape: tuple[int, ...], length: int) -> str:
        facts = Facts(1, length, length, (shape,), (8,))
        return pipeline.lower(parse(TEXT), dataclasses.replace(PROBLEM, facts=facts), TORCH_CPU).forward.digest

    assert kernel((4,), 10) == kernel((4,), 999) == kernel((7,), 10)
    assert kernel((3,), 10) != kernel((4,), 10)


def test_threads_lower_to_the_same_kernel():
    spec = parse(TEXT.replace("near", "threaded"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: pipeline.lower(spec, PROBLEM, TORCH_CPU), range(16)))
    assert len({id(each.forward) for each in found}) == 1

"""The backward pass of a first call is compiled beside its forward pass, once, and only where it will be wanted."""

from __future__ import annotations

import pytest
import torch

from attncc import pipeline
from attncc.api import Variant
from attncc.errors import CompileError
from attncc.frontend import parse
from attncc.runtime import ahead, op, triton_fit
from attncc.schedule import Gradients, Target

TEXT = (
    "attention tilted:\n  capture slope: float[heads]\n  mask = q_idx >= kv_idx\n  score = score + slope[h] * q_idx\n"
)
KIND = (True, False)


def tensors(heads: int = 2, wanted: bool = True) -> list[torch.Tensor]:
    q, k, v = (torch.zeros(1, heads, 20, 64, dtype=torch.bfloat16).requires_grad_(wanted) for _ in range(3))
    return [q, k, v, torch.zeros(heads)]


@pytest.fixture
def settled(monkeypatch):
    """The programs that are compiled, for a GPU that is not there."""
    found = []
    monkeypatch.setattr(ahead, "_BEGUN", set())
    monkeypatch.setattr(triton_fit, "settle", lambda program, device: found.append(program))
    monkeypatch.setattr(op, "target_of", lambda backend, device: Target("triton", "cuda", "sm_80"))
    assert Variant  # whose module hands over the compiler
    return found


def begin(given: list[torch.Tensor], text: str | None = None):
    thread = ahead.begin_backward(text or pipeline.remember(parse(TEXT)), given, (), (0, 0), False, False, KIND)
    if thread is not None:
        thread.join()
    return thread


def test_the_backward_pass_is_compiled_with_the_gradients_that_will_be_wanted(settled):
    q, k, v, slope = tensors()
    begin([q, k.detach(), v, slope.requires_grad_()])
    (program,) = settled
    assert program.variant.derivatives.gradients == Gradients(True, False, True, (True,))
    assert "backward_q" in program.passes


def test_it_is_begun_once_for_all_lengths(settled):
    begin(tensors())
    longer = [t.repeat(1, 1, 3, 1) if t.dim() == 4 else t for t in tensors()]
    assert begin([t.detach().requires_grad_() if t.dim() == 4 else t for t in longer]) is None
    assert begin(tensors(heads=4)) is not None
    assert len(settled) == 2


def test_nothing_is_compiled_where_no_gradient_is_wanted(settled):
    assert begin(tensors(wanted=False)) is None
    with torch.no_grad():
        assert begin(tensors()) is None
    assert settled == []


def test_nothing_is_begun_where_nothing_may_be_compiled(settled, monkeypatch):
    monkeypatch.setattr(ahead.triton_build, "compile_refusal", lambda: "it is forbidden")
    assert begin(tensors()) is None


def test_what_goes_wrong_is_left_to_the_call(settled, monkeypatch):
    def refuse(program, device):
        raise CompileError("no")

    monkeypatch.setattr(triton_fit, "settle", refuse)
    assert begin(tensors()) is not None

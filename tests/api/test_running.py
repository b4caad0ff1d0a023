"""What `source` and `explain` show of Triton kernels: those that run, or that they are not built yet."""

from __future__ import annotations

import attncc
from attncc.api.running import UNBUILT
from tests.api.cases import WINDOW
from tests.interpreter import interpreted


def tensors(dim=16):
    import torch

    return [torch.randn(1, 2, 40, dim, requires_grad=True) for _ in range(3)]


@interpreted
def test_kernels_that_are_not_built_are_shown_as_such():
    import torch

    variant, own = attncc.loads(WINDOW), tensors()
    slopes = torch.rand(2)
    shown = variant.source(*own, slopes=slopes, backend="triton")
    assert shown.startswith(f"# {UNBUILT}")
    assert "def forward(" in shown
    assert "def backward_kv(" in shown
    assert UNBUILT in str(variant.explain(*own, slopes=slopes, backend="triton"))


@interpreted
def test_kernels_that_were_built_are_those_that_are_shown():
    import torch

    variant, own = attncc.loads(WINDOW), tensors()
    slopes = torch.rand(2)
    variant(*own, slopes=slopes, backend="triton").sum().backward()
    assert UNBUILT not in variant.source(*own, slopes=slopes, backend="triton")
    assert UNBUILT not in str(variant.explain(*own, slopes=slopes, backend="triton"))


@interpreted
def test_the_schedule_that_was_settled_is_shown():
    import torch

    from attncc.runtime import triton_fit

    variant, own = attncc.loads(WINDOW), tensors(dim=24)
    slopes = torch.rand(2)
    kept = triton_fit.settle
    triton_fit.settle = lambda program, *_: program.rescheduled(program.schedules.choices("forward")[-1])
    try:
        variant(*own, slopes=slopes, backend="triton")
    finally:
        triton_fit.settle = kept
    assert "TILES of 16 queries x 16 keys" in str(variant.explain(*own, slopes=slopes, backend="triton"))
    assert "TILE_Q = tl.constexpr(16)" in variant.source(*own, slopes=slopes, backend="triton").split("def forward(")[0]


def test_other_back_ends_show_their_own_text():
    import torch

    assert UNBUILT not in attncc.loads(WINDOW).source(*tensors(), slopes=torch.rand(2), backend="torch")

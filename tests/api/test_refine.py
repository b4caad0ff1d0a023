"""refine=True: the same results from fewer tiles, said by explain, refused where it is no switch."""

from __future__ import annotations

import pytest
import torch

import attncc
from attncc.errors import InputError
from attncc.runtime.visited import MEMORY

TURNS = torch.tensor([0, 2]).repeat(64)
TURNS[64:] = 1


def same(b, h, q_idx, kv_idx):
    return TURNS[q_idx] == TURNS[kv_idx]


def tensors(grad: bool = False) -> list[torch.Tensor]:
    return [torch.randn(1, 2, 128, 8, requires_grad=grad) for _ in range(3)]


@pytest.mark.parametrize("refine", [None, False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_results_and_gradients_are_the_same(refine, compiled):
    own = tensors(grad=True)
    wanted = attncc.attention(*own, None, same, backend="reference")
    gradients = torch.autograd.grad(wanted.square().sum(), own)

    def call(q, k, v):
        return attncc.attention(q, k, v, None, same, backend="torch", block_m=64, block_n=64, refine=refine)

    out = torch.compile(call, backend="aot_eager")(*own) if compiled else call(*own)
    torch.testing.assert_close(out, wanted)
    for found, exact in zip(torch.autograd.grad(out.square().sum(), own), gradients, strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_fewer_tiles_are_visited_and_explain_says_so():
    variant = attncc.compile(None, same)
    plain = variant.explain(*tensors(), block_m=64, block_n=64)
    refined = variant.explain(*tensors(), block_m=64, block_n=64, refine=True)
    assert (plain.tiles.visited, plain.tiles.full, refined.tiles.visited, refined.tiles.full) == (4, 1, 2, 1)
    assert "table: refine looked inside 3 masked tiles: 2 are empty, 0 are full" in str(refined)
    assert not any("refine" in fact for fact in plain.table)
    assert "def visible(q_idx, kv_idx):" in variant.source(*tensors(), refine=True)
    assert "def visible" not in variant.source(*tensors())


def test_explain_says_what_a_table_is_made_from_and_where_it_is_short():
    ids = torch.stack([torch.arange(128) // 16, torch.arange(128).flip(0) // 16])
    q = torch.randn(2, 1, 128, 8)
    found = attncc.compile(None, lambda b, h, i, j: ids[b, i] == ids[b, j]).explain(q, q, q)
    assert found.table == (
        "made from ids, remembered until one of them changes in place",
        "what it reads along the keys ascends in 1 of 2: there only a row's own neighbourhood is judged",
    )
    assert attncc.compile(None, lambda b, h, i, j: i >= j).explain(q, q, q).table == ()


def test_a_refined_table_is_not_taken_for_another():
    MEMORY.clear()
    given = {"backend": "torch", "block_m": 64, "block_n": 64}
    own = tensors()
    for refine in (False, True, False, True):
        attncc.attention(*own, None, same, refine=refine, **given)
    assert len(MEMORY) == 2


def test_it_is_a_switch():
    with pytest.raises(InputError, match="`refine` must be True, False or None, but is 1"):
        attncc.attention(*tensors(), None, same, refine=1)
    with pytest.raises(InputError, match="did you mean `refine`"):
        attncc.compile(None, same)(*tensors(), refined=True)

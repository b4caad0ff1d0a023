"""Tables are remembered for captured tensors as they were, never longer, and in bounded memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from attncc import attention
from attncc.runtime import visited
from attncc.runtime.visited import MEMORY
from attncc.runtime.watch import watch

LENGTH = 96


@pytest.fixture(autouse=True)
def forgotten():
    MEMORY.clear()


@pytest.fixture
def made(monkeypatch):
    """The tables that were made, one entry each."""
    found = []
    maker = visited.Tiles.maker
    monkeypatch.setattr(visited.Tiles, "maker", lambda self, b, h: found.append((b, h)) or maker(self, b, h))
    return found


def attend(ids: torch.Tensor, backend: str = "torch", q: torch.Tensor | None = None) -> torch.Tensor:
    q = torch.linspace(-1, 1, LENGTH * 8).view(1, 1, LENGTH, 8) if q is None else q
    return attention(q, q, q, None, lambda b, h, i, j: ids[i] == ids[j], backend=backend, block_m=16, block_n=16)


def check(ids: torch.Tensor) -> None:
    torch.testing.assert_close(attend(ids), attend(ids, "reference"))


def documents() -> torch.Tensor:
    return torch.arange(LENGTH) // 16


def test_a_table_is_made_once_for_a_tensor_that_stays_as_it_is(made):
    ids = documents()
    for _ in range(3):
        check(ids)
    assert made == [(0, 0)]


def test_forward_and_backward_each_make_theirs_once(made):
    ids = documents()
    q = torch.randn(1, 1, LENGTH, 8, requires_grad=True)
    for _ in range(2):
        attend(ids, q=q).sum().backward()
    assert len(made) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids.add_(torch.arange(LENGTH) % 2),
        lambda ids: ids[20:40].fill_(3),
        lambda ids: ids.view(2, -1)[1].zero_(),
        lambda ids: ids.detach().fill_(1),
        lambda ids: ids.copy_(torch.arange(LENGTH).flip(0) // 7),
        lambda ids: ids.__setitem__(50, 0),
        lambda ids: torch.add(ids, 1, out=ids).__setitem__(slice(0, 9), 7),
        lambda ids: ids.set_(torch.arange(LENGTH) // 3),
    ],
)
def test_a_change_in_place_is_seen(made, change):
    ids = documents()
    check(ids)
    change(ids)
    check(ids)
    assert len(made) == 2


def test_views_of_one_tensor_have_their_own_tables(made):
    base = torch.arange(3 * LENGTH) // 10
    for start in (0, LENGTH, 5, 0, LENGTH, 5):
        check(base[start : start + LENGTH])
    assert len(made) == 6  # each view takes the place of the one before it
    strided = torch.arange(2 * LENGTH).view(-1, 2) // 9
    check(strided[:, 0])
    strided.zero_()
    check(strided[:, 0])
    check(strided[:, 1])


def test_a_view_made_anew_keeps_the_table_of_its_base(made):
    base = torch.arange(2 * LENGTH) // 10
    for _ in range(3):
        check(base[:LENGTH])
    assert len(made) == 1
    base[0] = 4
    check(base[:LENGTH])
    assert len(made) == 2


def test_memory_that_is_used_again_does_not_bring_back_a_table():
    seen = set()
    for number in range(40):
        ids = (torch.arange(LENGTH) + number) // (2 + number % 9)
        check(ids)
        seen.add(ids.data_ptr())
        del ids
    assert len(seen) < 40  # or this test says nothing


def test_data_that_begins_its_count_of_writes_anew_is_not_taken_for_the_same():
    ids = documents()
    check(ids.data)
    ids.fill_(0)
    check(ids.data)


def test_inference_tensors_are_judged_in_each_call(made):
    with torch.inference_mode():
        ids = documents()
        for each in (0, 1):
            ids[:40] = each
            torch.testing.assert_close(attend(ids), attend(ids, "reference"))
    assert len(made) == 2


def test_nothing_keeps_a_captured_tensor_alive():
    ids = documents()
    check(ids)
    gone, memory = weakref.ref(ids), watch([ids])
    assert memory is not None
    assert memory.holds([ids])
    del ids
    gc.collect()
    assert gone() is None


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(visited, "MAX_TABLES", 5)
    kept = [torch.arange(length) // 4 for length in range(30, 50)]
    for ids in kept:
        q = torch.randn(1, 1, len(ids), 8)
        attend(ids, q=q)
    assert len(MEMORY) == 5
    assert MEMORY.size > 0
    monkeypatch.setattr(visited, "MAX_BYTES", MEMORY.size - 1)
    attend(torch.arange(60) // 4, q=torch.randn(1, 1, 60, 8))
    assert MEMORY.size < visited.MAX_BYTES + 1
    monkeypatch.setattr(visited, "MAX_TABLE", 0)
    MEMORY.clear()
    check(documents())
    assert (len(MEMORY), MEMORY.size) == (0, 0)


def test_each_sequence_has_its_table(made):
    ids = torch.stack([torch.arange(LENGTH) // 7, torch.arange(LENGTH).flip(0) // 30])
    q = torch.randn(2, 3, LENGTH, 8)
    given = (q, q, q, None, lambda b, h, i, j: ids[b, i] == ids[b, j])
    for _ in range(2):
        torch.testing.assert_close(attention(*given, backend="torch"), attention(*given, backend="reference"))
    assert sorted(made) == [(0, 0), (1, 0)]

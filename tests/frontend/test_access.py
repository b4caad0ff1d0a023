"""Reading without a walk: it gives what a walk gives, or leaves the answer to a walk."""

from __future__ import annotations

import gc
import types
import weakref

import pytest
import torch

from attncc.frontend.access import access_of
from attncc.frontend.reach import reach
from attncc.variants.bias import alibi
from attncc.variants.causal import causal
from attncc.variants.windows import sliding_window

WIDTH = 7
FACTOR = 0.5
TABLE = torch.arange(4.0)


def by_globals(b, h, q_idx, kv_idx):
    return (abs(q_idx - kv_idx) < WIDTH) & (TABLE[h] * FACTOR < max(q_idx, kv_idx))


def by_default(b, h, q_idx, kv_idx, width=9, scale=0.25, flag=True, title="a", nothing=None):
    return q_idx - kv_idx < width


def closure(width=5, factor=0.5, table=TABLE, inner=by_default):
    def mask(b, h, q_idx, kv_idx):
        return (q_idx - kv_idx < width) & (table[h] * factor > 0) & inner(b, h, q_idx, kv_idx) & torch.isfinite(q_idx)

    return mask


def sharing(width=5):
    def score(score, b, h, q_idx, kv_idx):
        return score + width

    def mask(b, h, q_idx, kv_idx):
        return q_idx - kv_idx < width

    return score, mask


def agree(access, functions):
    """Whether reading agrees with a walk that has just been made."""
    found, (walk, _) = access.read(functions), reach(functions)
    return found is not None and found.ints == walk.ints and all(map(lambda a, b: a is b, found.tensors, walk.tensors))


@pytest.mark.parametrize(
    "functions",
    [
        (None, by_globals),
        (None, by_default),
        (None, closure()),
        (None, causal),
        (None, sliding_window(9)),
        (alibi(torch.ones(4)), causal),
        (sharing()[0], sharing(6)[1]),
    ],
    ids=["globals", "defaults", "closure", "gallery", "parametrised", "captured", "two"],
)
def test_plain_functions_are_read_without_a_walk(functions):
    access = access_of(functions, reach(functions)[0])
    assert access is not None
    assert agree(access, functions)


def test_another_closure_of_the_same_code_is_read_alike():
    access = access_of((None, closure()), reach((None, closure()))[0])
    other = (None, closure(width=-3, table=torch.ones(9)))
    assert access is not None
    assert agree(access, other)
    assert access.read(other).ints == [9, -3]


class Own(torch.Tensor):
    pass


def named(tensor):
    tensor.width = 3
    return tensor


OTHERS = {
    "a float for an int": {"width": 5.0},
    "a bool for an int": {"width": True},
    "a huge int": {"width": 2**63},
    "another float": {"factor": 0.25},
    "an int for a float": {"factor": 1},
    "another dtype": {"table": torch.arange(4)},
    "another rank": {"table": torch.ones(2, 2)},
    "a parameter": {"table": torch.nn.Parameter(torch.ones(4))},
    "a subclass": {"table": torch.ones(4).as_subclass(Own)},
    "a tensor with attributes": {"table": named(torch.ones(4))},
    "another function": {"inner": by_globals},
    "an object": {"inner": types.SimpleNamespace(width=3)},
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_a_walk_may_see_otherwise_is_left_to_it(change):
    before, after = (None, closure()), (None, closure(**OTHERS[change]))
    access = access_of(before, reach(before)[0])
    assert access is not None
    assert access.read(after) is None


@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0)])
def test_zeros_of_either_sign_are_two(zeros):
    before, after = ((None, closure(factor=zero)) for zero in zeros)
    assert access_of(before, reach(before)[0]).read(after) is None


def test_a_shared_number_is_left_to_a_walk():
    apart, together = (sharing()[0], sharing()[1]), sharing()
    access = access_of(apart, reach(apart)[0])
    assert reach(apart)[0].facts != reach(together)[0].facts
    assert access.read(together) is None
    assert access_of(together, reach(together)[0]) is None


def test_a_tensor_met_twice_is_left_to_a_walk():
    def pair(one, two):
        return None, lambda b, h, q_idx, kv_idx: one[h] < two[h]

    before = pair(torch.ones(4), torch.ones(4))
    access = access_of(before, reach(before)[0])
    assert access.read(pair(TABLE, TABLE)) is None


def test_functions_that_change_are_left_to_a_walk(monkeypatch):
    functions = (None, by_globals)
    access = access_of(functions, reach(functions)[0])
    changes = {"FACTOR": 0.75, "TABLE": None, "max": min}
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setitem(by_globals.__globals__, name, value)
            assert access.read(functions) is None, name
    with monkeypatch.context() as patch:
        patch.delitem(by_globals.__globals__, "WIDTH")
        assert access.read(functions) is None
    with monkeypatch.context() as patch:
        patch.setattr("builtins.max", min)
        assert access.read(functions) is None
    with monkeypatch.context() as patch:
        patch.setattr(by_globals, "width", 3, raising=False)
        assert access.read(functions) is None
    with monkeypatch.context() as patch:
        patch.setattr(by_globals, "__code__", (lambda b, h, q_idx, kv_idx: q_idx < 3).__code__)
        assert access.read(functions) is None
    assert agree(access, functions)


@pytest.mark.parametrize("change", [{"__defaults__": (1.5,)}, {"__defaults__": None}, {"__kwdefaults__": {"width": 1}}])
def test_defaults_that_change_are_left_to_a_walk(change, monkeypatch):
    functions = (None, by_default)
    access = access_of(functions, reach(functions)[0])
    for name, value in change.items():
        monkeypatch.setattr(by_default, name, value)
    assert access.read(functions) is None


def test_containers_and_objects_need_a_walk():
    for held in ([1, 2], {"a": 1}, types.SimpleNamespace(width=3), 1j):
        functions = (None, closure(factor=held))
        assert access_of(functions, reach(functions)[0]) is None


def test_an_access_keeps_no_tensor_and_no_function_alive():
    table = torch.ones(4)
    functions = [None, closure(table=table)]
    access = access_of(functions, reach(tuple(functions))[0])
    gone = weakref.ref(table), weakref.ref(functions[1])
    del table
    functions.clear()
    gc.collect()
    assert access is not None
    assert [each() for each in gone] == [None, None]

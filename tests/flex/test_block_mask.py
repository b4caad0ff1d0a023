"""`BlockMask` is PyTorch's, list for list, and makes its lists only when somebody reads them."""

from __future__ import annotations

import copy
import functools
import inspect
import time
import tracemalloc

import pytest
import torch
from torch.utils import _pytree as pytree

from attncc import flex
from attncc.flex.block_mask import _MADE, LISTS
from attncc.flex.lists import tabulated
from attncc.variants import gallery
from attncc.variants.causal import causal_bottom_right
from tests.flex.mods import causal, window
from tests.flex.oracle import dense, tensors, theirs

OWNER = torch.tensor([[0] * 90 + [1] * 130 + [2] * 80, [0] * 10 + [1] * 10 + [2] * 280])
OFFSET = torch.tensor([0, 70])


def documents(b, h, q, kv):
    return (OWNER[b, q] == OWNER[b, kv]) & (q >= kv)


def by_head(b, h, q, kv):
    return (q * kv) % 7 == h


def shifted(b, h, q, kv):
    return q + OFFSET[b] >= kv


CASES = {
    "causal": (causal, None, None, 512, 512, 128),
    "causal, ragged": (causal, 1, 1, 200, 300, 128),
    "window": (window(70), 2, 3, 300, 300, 64),
    "documents": (documents, 2, None, 300, 300, 32),
    "documents, ragged": (documents, 2, 2, 300, 290, (64, 32)),
    "by head": (by_head, 1, 4, 100, 100, 16),
    "shifted": (shifted, 2, None, 256, 256, (32, 64)),
    "everything": (flex.noop_mask, None, None, 256, 200, 64),
    "nothing": (flex.or_masks(), None, None, 256, 200, 64),
}


def both(name, **more):
    mask, *sizes, block = CASES[name]
    return [made.create_block_mask(mask, *sizes, "cpu", block, **more) for made in (theirs, flex)]


def same(found, wanted):
    for name in LISTS:
        mine, other = getattr(found, name), getattr(wanted, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other), name


@pytest.mark.parametrize("name", CASES)
def test_lists_are_those_of_torch(name):
    wanted, found = both(name)
    same(found, wanted)
    assert found.shape == wanted.shape
    assert found.numel() == wanted.numel()
    assert found.sparsity() == wanted.sparsity()
    assert torch.equal(found.to_dense(), wanted.to_dense())
    assert str(found) == str(wanted)
    assert repr(found) == repr(wanted)
    assert found.to_string(grid_size=(5, 5), limit=1) == wanted.to_string(grid_size=(5, 5), limit=1)


@pytest.mark.skipif(
    "separate_full_blocks" not in inspect.signature(theirs.create_block_mask).parameters, reason="torch 2.13 has it"
)
def test_full_blocks_need_not_be_told_apart():
    same(*reversed(both("documents", separate_full_blocks=False)))


@pytest.mark.parametrize("name", CASES)
def test_unrefined_lists_hold_all_that_is_visible(name):
    mask, *sizes, block = CASES[name]
    exact, loose = (flex.create_block_mask(mask, *sizes, "cpu", block, exact=e) for e in (True, False))
    assert torch.all(loose.to_dense() >= exact.to_dense())
    full = [tabulated(m.full_kv_num_blocks, m.full_kv_indices, m.kv_indices.shape[-1]) for m in (exact, loose)]
    assert torch.all(full[0] >= full[1])


def test_attributes():
    made = flex.create_block_mask(causal, 4, 2, 2048, 2048, "cpu")
    assert made.shape == (4, 2, 2048, 2048)
    assert made.BLOCK_SIZE == (128, 128)
    assert made.sparsity() == 46.875
    assert made.kv_num_blocks.shape == (4, 2, 16)
    assert isinstance(made, theirs.BlockMask)
    assert flex.create_block_mask(shifted, 2, 1, 2048, 2048, "cpu").sparsity() < 46.875


@pytest.mark.parametrize("index", [0, (0, 1), -1, (slice(0, 1), slice(1, 2)), (slice(None), 0, torch.tensor([1, 3]))])
def test_items_are_those_of_torch(index):
    wanted, found = (made.create_block_mask(documents, 2, 2, 300, 300, "cpu", 32)[index] for made in (theirs, flex))
    same(found, wanted)
    assert isinstance(found, flex.BlockMask)
    assert found.shape == wanted.shape


def test_a_slice_needs_a_mask_function_of_its_own():
    q, k, v = tensors(q_len=32, kv_len=128)
    whole = flex.create_block_mask(causal, None, None, 128, 128, "cpu", 32)
    last = whole[:, :, 3]
    last.seq_lengths = (32, 128)
    with pytest.raises(RuntimeError, match="a sliced BlockMask has no mask function"):
        flex.flex_attention(q, k, v, block_mask=last)
    last.mask_mod = lambda b, h, i, j: whole.mask_mod(b, h, i + 96, j)
    found = flex.flex_attention(q, k, v, block_mask=last)
    wanted, _ = dense(None, lambda b, h, i, j: i + 96 >= j, q, k, v)
    assert torch.allclose(found, wanted)


def test_moving_keeps_the_mask_symbolic():
    made = flex.create_block_mask(causal, None, None, 64, 64, "cpu").to("cpu")
    assert made.is_symbolic
    by_hand = flex.BlockMask.from_kv_blocks(made.kv_num_blocks, made.kv_indices)
    assert by_hand.to("cpu").kv_indices.device.type == "cpu"


def test_adjusted_lengths():
    wanted, found = (
        made.create_block_mask(causal, 1, 1, 256, 256, "cpu", 64)._adjust(128, 128) for made in (theirs, flex)
    )
    assert found.shape == wanted.shape
    assert torch.equal(found.to_dense(), wanted.to_dense())


def test_pytree():
    made = flex.create_block_mask(documents, 2, None, 300, 300, "cpu", 64)
    leaves, tree = pytree.tree_flatten(made)
    back = pytree.tree_unflatten(leaves, tree)
    assert isinstance(back, flex.BlockMask)
    same(back, made)
    assert any(torch.equal(leaf, made.kv_indices) for leaf in leaves if isinstance(leaf, torch.Tensor))


def test_copies():
    made = copy.deepcopy(flex.create_block_mask(window(5), None, None, 64, 64, "cpu"))
    assert made.shape == (1, 1, 64, 64)
    assert made.kv_num_blocks.tolist() == [[[1]]]


def test_functions_of_every_kind():
    class Window:
        def __init__(self, size):
            self.size = size

        def __call__(self, b, h, q, kv):
            return (q - kv).abs() <= self.size

    def near(b, h, q, kv, size):
        return (q - kv).abs() <= size

    def named(batch, heads, q_len, kv_len):
        return (q_len - kv_len).abs() <= 9

    for mask in (Window(9), functools.partial(near, size=torch.tensor(9)), named):
        found = flex.create_block_mask(mask, None, None, 100, 100, "cpu", 16)
        same(found, theirs.create_block_mask(mask, None, None, 100, 100, "cpu", 16))


def test_masks_combined_have_the_blocks_that_torch_documents():
    both_of = flex.and_masks(causal, window(512))
    made = flex.create_block_mask(both_of, 1, 1, 2048, 2048, "cpu")
    assert int(made.kv_num_blocks.sum()) == 28
    none = flex.and_masks(causal, lambda b, h, q, kv: ~causal(b, h, q, kv))
    assert int(flex.create_block_mask(none, 1, 1, 2048, 2048, "cpu").kv_num_blocks.sum()) == 0


def test_a_mask_may_ask_for_the_lengths():
    made = flex.create_block_mask(causal_bottom_right, None, None, 64, 128, "cpu", 32)
    assert made.kv_num_blocks.tolist() == [[[1, 1]]]
    assert made.full_kv_num_blocks.tolist() == [[[2, 3]]]
    plain = made.to_torch()
    assert type(plain) is theirs.BlockMask
    assert bool(plain.mask_mod(0, 0, torch.tensor(0), torch.tensor(64)))


def test_create_mask_is_that_of_torch():
    for function in (documents, lambda s, b, h, q, kv: torch.where(q >= kv, s, -torch.inf)):
        wanted, found = (made.create_mask(function, 2, 3, 50, 60, "cpu") for made in (theirs, flex))
        assert torch.equal(found, wanted)
        assert found.dtype == wanted.dtype


BANDS = [entry for entry in gallery.gallery().values() if entry.tiles == "bands" and entry.mask is not None]


@pytest.mark.parametrize("entry", BANDS, ids=lambda entry: entry.name)
def test_a_million_tokens_cost_nothing_until_lists_are_read(entry):
    length = 1 << 20
    sizes = entry.sizes(256)
    _, mask = entry.at(sizes)
    flex.create_block_mask(causal, None, None, 64, 64, "cpu")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        made = flex.create_block_mask(mask, None, None, length, length, "cpu")
        assert made.shape == (1, 1, length, length)
        times.append(time.perf_counter() - start)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert min(times) < 0.005
    assert peak < 1 << 20
    assert made not in _MADE

"""Block masks that are made of lists, by hand or by torch, are obeyed: list for list, then the mask function."""

from __future__ import annotations

import pytest
import torch

from attncc import flex
from attncc.errors import InputError
from tests.flex.mods import causal, rel_bias, window
from tests.flex.oracle import close, dense, tensors, theirs


def visible(block_mask, q_len, kv_len):
    """Which pairs the lists and the mask function show, the slow way."""
    rows, columns = block_mask.BLOCK_SIZE
    shape = (*block_mask.kv_num_blocks.shape[:2], q_len, kv_len)
    mask = torch.zeros(shape, dtype=torch.bool)
    inner = theirs.create_mask(block_mask.mask_mod, *shape, "cpu")
    lists = [(block_mask.kv_num_blocks, block_mask.kv_indices, inner)]
    if block_mask.full_kv_num_blocks is not None:
        lists.append((block_mask.full_kv_num_blocks, block_mask.full_kv_indices, torch.ones_like(inner)))
    for counts, indices, shown in lists:
        for b, h, r in torch.cartesian_prod(*(torch.arange(n) for n in counts.shape)).tolist():
            for c in indices[b, h, r, : counts[b, h, r]].tolist():
                at = (b, h, slice(r * rows, r * rows + rows), slice(c * columns, c * columns + columns))
                mask[at] = shown[at]
    return mask


def obeyed(block_mask, q_len=64, kv_len=64, score=None):
    leaves = [t.requires_grad_() for t in tensors(q_len=q_len, kv_len=kv_len)]
    shown = visible(block_mask, q_len, kv_len).expand(2, 4, -1, -1)
    wanted, wanted_lse = dense(score, lambda b, h, q, kv: shown[b, h, q, kv], *leaves)
    found, aux = flex.flex_attention(*leaves, score, block_mask, return_aux=flex.AuxRequest(lse=True))
    close("out", found, wanted, 1e-11)
    close("lse", aux.lse, wanted_lse, 1e-11)
    grads = [torch.autograd.grad(out.sin().sum(), leaves) for out in (wanted, found)]
    for mine, other in zip(*grads, strict=True):
        close("gradient", other, mine, 1e-11)


def random_lists(made, batch, heads, block, q_len=64, kv_len=64, mask_mod=causal, full=True):
    rows, columns = -(-q_len // block[0]), -(-kv_len // block[1])
    kinds = torch.randint(0, 3 if full else 2, (batch, heads, rows, columns))
    kinds[..., 0] = kinds[..., 0].clamp(min=1)
    lists = [part for kind in ((1, 2) if full else (1,)) for part in theirs._dense_to_ordered(kinds == kind)]
    sizes = {"BLOCK_SIZE": block, "mask_mod": mask_mod, "seq_lengths": (q_len, kv_len)}
    return made.BlockMask.from_kv_blocks(*lists, **sizes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", [theirs, flex], ids=["torch", "attncc"])
@pytest.mark.parametrize("block", [(16, 16), (8, 32), (20, 7), (128, 128)])
@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (2, 4)])
def test_random_lists(made, block, groups):
    torch.manual_seed(4)
    mask = window(50) if groups == (2, 1) else None
    obeyed(random_lists(made, *groups, block, mask_mod=mask), score=rel_bias)


def test_lists_without_full_blocks_at_ragged_lengths():
    obeyed(random_lists(flex, 2, 1, (16, 32), 61, 90, None, full=False), 61, 90)


def test_compact_lists_without_the_backward_ones():
    counts = torch.tensor([[[1, 2, 1, 2]]], dtype=torch.int32)
    indices = torch.tensor([[[[0, -7], [1, 0], [3, 99], [2, 3]]]], dtype=torch.int32)
    made = flex.BlockMask.from_kv_blocks(
        counts, indices, BLOCK_SIZE=16, mask_mod=flex.noop_mask, seq_lengths=(64, 64), compute_q_blocks=False
    )
    assert made.q_indices is None
    obeyed(made)


def test_lists_of_torch_are_those_of_its_mask():
    obeyed(theirs.create_block_mask(causal, 2, None, 64, 64, "cpu", 16))


def test_lists_of_less_than_four_dimensions():
    made = flex.BlockMask.from_kv_blocks(
        torch.ones(4, dtype=torch.int32), torch.arange(4, dtype=torch.int32)[:, None].repeat(1, 4), BLOCK_SIZE=16
    )
    q, k, v = tensors()
    found = flex.flex_attention(q, k, v, block_mask=made)
    wanted, _ = dense(None, lambda b, h, i, j: i // 16 == j // 16, q, k, v)
    close("out", found, wanted, 1e-11)


def test_changed_lists_are_read_again():
    made = flex.BlockMask.from_kv_blocks(
        torch.ones(1, 1, 4, dtype=torch.int32), torch.zeros(1, 1, 4, 4, dtype=torch.int32), BLOCK_SIZE=16
    )
    obeyed(made)
    made.kv_indices[..., 0] = 2
    obeyed(made)


def test_a_replaced_mask_function_leaves_the_lists():
    made = flex.create_block_mask(window(3), None, None, 64, 64, "cpu", 16)
    assert made.is_symbolic
    made.mask_mod = causal
    assert not made.is_symbolic
    obeyed(made)


def test_the_whole_in_one_block():
    q, k, v = tensors()
    made = theirs._create_empty_block_mask(q, k)
    close("out", flex.flex_attention(q, k, v, block_mask=made), flex.flex_attention(q, k, v), 1e-12)


def test_misfits_are_refused():
    q, k, v = tensors()
    short = flex.BlockMask.from_kv_blocks(
        torch.ones(1, 1, 2, dtype=torch.int32),
        torch.zeros(1, 1, 2, 4, dtype=torch.int32),
        BLOCK_SIZE=16,
        seq_lengths=(64, 64),
    )
    with pytest.raises(InputError, match="lists 2 rows of blocks, but 64 queries have 4"):
        flex.flex_attention(q, k, v, block_mask=short)
    batches = flex.create_block_mask(causal, 3, None, 64, 64, "cpu")
    with pytest.raises(InputError, match="block_mask is for 3 batches, but there are 2"):
        flex.flex_attention(q, k, v, block_mask=batches)

"""What else PyTorch's own tests of FlexAttention ask for: fields, precision, compiled block masks, errors."""

from __future__ import annotations

import pytest
import torch

from attncc import flex, pipeline
from attncc.errors import AttnccError, InputError
from tests.flex import mods
from tests.flex.mods import causal
from tests.flex.oracle import agree, close, eager, tensors, theirs

D = torch.float64


def natten(b, h, q, kv):
    q_x, q_y, kv_x, kv_y = q // 8, q % 8, kv // 8, kv % 8
    return ((q_x.clamp(1, 6) - kv_x).abs() <= 1) & ((q_y.clamp(1, 6) - kv_y).abs() <= 1)


def test_neighbours_in_a_field():
    agree(None, natten, block=16)


def test_packed_sequences_by_offsets():
    offsets = torch.tensor([0, 10, 25, 64])
    owner = torch.repeat_interleave(torch.arange(3), offsets.diff())

    def packed(b, h, q, kv):
        return (owner[q] == owner[kv]) & (q - offsets[owner[q]] >= kv - offsets[owner[kv]])

    agree(None, packed, block=16)


def test_two_ways_by_batch():
    prefix = torch.tensor([9, 31])
    agree(None, lambda b, h, q, kv: torch.where(kv < prefix[b], q >= 0, q >= kv), batch=2, block=16)


def test_indices_that_are_clamped():
    owner = torch.arange(70) // 9  # longer than the sequences

    def mask(b, h, q, kv):
        return owner[torch.clamp(q + 3, 0, 69)] == owner[torch.clamp(kv, max=63)]

    agree(None, mask, block=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["identity", "times two", "squared", "causal", "relative bias", "trig of positions"])
def test_gradcheck(name):
    gate = torch.rand(2, dtype=D, requires_grad=True)
    q, k, v = (t.requires_grad_() for t in tensors(1, 2, 6, 3))

    def attend(q, k, v, gate):
        return flex.flex_attention(q, k, v, lambda s, b, h, i, j: mods.SCORES[name](s, b, h, i, j) * gate[h])

    torch.autograd.gradcheck(attend, (q, k, v, gate))


def test_a_learned_bias_is_as_near_as_sdpa_is():
    table = torch.randn(64, 64, dtype=D)
    exact = tensors()
    narrow = [t.to(torch.bfloat16) for t in (*exact, table)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=table)
    errors = [
        (found.double() - wanted).square().mean().sqrt()
        for found in (
            flex.flex_attention(*narrow[:3], lambda s, b, h, i, j: s + narrow[3][i, j]),
            torch.nn.functional.scaled_dot_product_attention(*narrow[:3], attn_mask=narrow[3]),
        )
    ]
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize("name", ["times two", "squared", "causal", "relative bias", "alibi"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_farther_from_exact_than_torch(name, dtype):
    qkv = tensors(dtype=dtype)
    results = []
    for made, given in ((theirs, [t.double() for t in qkv]), (theirs, qkv), (flex, qkv)):
        leaves = [t.detach().clone().requires_grad_() for t in given]
        mask = made.create_block_mask(causal, None, None, 64, 64, "cpu")
        with eager():
            out = made.flex_attention(*leaves, mods.SCORES[name], mask)
            results.append([out, *torch.autograd.grad(out, leaves, torch.ones_like(out))])
    for exact, other, found in zip(*results, strict=True):
        error, allowed = ((t.double() - exact).abs().mean() for t in (found, other))
        assert error <= 1.1 * allowed


def test_one_kernel_serves_lengths_that_blocks_divide_or_not():
    size = 11

    def windowed(b, h, q, kv):
        return q - kv < size

    for size, length in ((11, 256), (12, 255), (13, 383), (14, 384)):  # noqa: B007  # the mask reads it
        mask = flex.create_block_mask(windowed, None, None, length, length, "cpu")
        flex.flex_attention(*tensors(1, 1, length, 6), block_mask=mask)
    made = {id(low.forward) for (_, problem, _), low in pipeline._LOWERED.items() if problem.head_dim == 6}
    assert len(made) == 1


# Block masks.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of many things
def test_block_masks_may_be_created_by_compiled_code():
    torch._dynamo.reset()
    created = torch.compile(flex.create_block_mask, backend="eager")
    for length in (64, 100):
        found = created(causal, None, None, length, length, "cpu", 16)
        wanted = theirs.create_block_mask(causal, None, None, length, length, "cpu", 16)
        assert torch.equal(found.kv_indices, wanted.kv_indices)
    torch._dynamo.reset()
    flag = flex.create_block_mask(causal, None, None, 64, 64, "cpu", _compile=True)
    assert flag.shape == (1, 1, 64, 64)


def test_a_block_size_of_any_kind():
    agree(mods.rel_bias, causal, block=(96, 24))


def test_lists_that_do_not_fit_each_other():
    counts, columns = torch.ones(1, 1, 2, dtype=torch.int32), torch.zeros(1, 1, 2, 2, dtype=torch.int32)
    for given in ({"full_kv_num_blocks": counts}, {"full_kv_indices": columns}):
        with pytest.raises((AssertionError, ValueError)):
            flex.BlockMask.from_kv_blocks(counts, columns, **given)
    made = flex.BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=32)
    made.kv_num_blocks = counts[..., :1]
    with pytest.raises(InputError, match="the lists of a block mask do not fit each other"):
        flex.flex_attention(*tensors(), block_mask=made)


@pytest.mark.parametrize(("rows", "columns"), [(1023, 1024), (1024, 1023)])
def test_a_block_mask_of_other_lengths_is_refused(rows, columns):
    mask = flex.create_block_mask(causal, None, None, rows, columns, "cpu")
    q, k, v = tensors(1, 1, 1024, 4)
    with pytest.raises(ValueError, match=f"block_mask is for {rows} queries and {columns} keys"):
        flex.flex_attention(q, k, v, block_mask=mask)


def test_gradients_need_no_lists_of_columns():
    made = flex.create_block_mask(causal, None, None, 64, 64, "cpu", 16)
    bare = flex.BlockMask.from_kv_blocks(
        made.kv_num_blocks,
        made.kv_indices,
        made.full_kv_num_blocks,
        made.full_kv_indices,
        BLOCK_SIZE=16,
        mask_mod=causal,
        compute_q_blocks=False,
    )
    leaves = [t.requires_grad_() for t in tensors()]
    grads = [
        torch.autograd.grad(flex.flex_attention(*leaves, block_mask=mask).sin().sum(), leaves) for mask in (made, bare)
    ]
    for wanted, found in zip(*grads, strict=True):
        close("gradient", found, wanted, 1e-12)


# Errors.


def test_tensors_of_several_devices():
    q, k, v = tensors()
    with pytest.raises(InputError, match="meta device"):
        flex.flex_attention(q, k.to("meta"), v)
    table = torch.zeros(64, device="meta")
    with pytest.raises(AttnccError, match="table"):
        flex.flex_attention(q, k, v, lambda s, b, h, i, j: s + table[j])


def test_a_reduction_over_the_sequence_is_refused():
    table = torch.randn(64, 300)
    with pytest.raises(AttnccError, match="300 elements of `table`"):
        flex.flex_attention(*tensors(), lambda s, b, h, i, j: s + table[i].mean())


@pytest.mark.parametrize("head_dim", [1, 4, 8])
def test_what_torch_finds_too_small_works(head_dim):
    agree(mods.times_two, causal, tensors(1, 2, 3, head_dim))

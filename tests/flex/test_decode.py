"""Few queries over many keys, as in decoding, and PyTorch's paged cache: results are those of FlexAttention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.experimental._paged_attention import PagedAttention

from attncc import flex
from tests.flex import mods
from tests.flex.oracle import agree, close, dense, tensors, theirs

B, KEYS, PAGE = 4, 96, 16
HEADS = {"4 share 2": (4, 2), "4 share 1": (4, 1), "8 share 2": (8, 2), "each its own": (4, 4)}


def decoding(q_len=1, heads=(4, 2), kv_len=KEYS, batch=B, kv_batch=None, **more):
    return tensors(batch, heads[0], q_len, kv_heads=heads[1], kv_len=kv_len, kv_batch=kv_batch, **more)


def from_position(position):
    """Queries that stand at some position of the keys."""

    def causal(b, h, q, kv):
        return q + position >= kv

    return causal


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("name", ["identity", "squared", "causal", "relative bias", "alibi", "trig of positions"])
def test_scores(name, heads):
    score = mods.SCORES[name]
    allowed = 2e-5 if "trig" in name else None  # torch takes the tangent of an int in float32
    agree(
        lambda s, b, h, q, kv: score(s, b, h, q + KEYS - 1, kv), None, decoding(heads=HEADS[heads]), tolerance=allowed
    )


@pytest.mark.parametrize("block", [(1, 64), 32, (128, 64), (16, 128)])
def test_block_sizes(block):
    agree(mods.alibi(4), from_position(KEYS - 1), decoding(), block=block)


@pytest.mark.parametrize("kv_batch", [1, 4])
@pytest.mark.parametrize("q_len", [1, 3])
def test_ragged_keys_and_several_queries(q_len, kv_batch):
    offset = torch.tensor([70, 3, 91, 0])

    def mask(b, h, q, kv):
        return q + offset[b] >= kv

    agree(mods.times_two, mask, decoding(q_len, kv_len=KEYS - 3, kv_batch=kv_batch), batch=B)


def test_a_mask_of_its_own_for_each_head_of_a_group():
    widths = torch.tensor([3, 10, 40, 90])

    def mask(b, h, q, kv):
        return kv >= KEYS - widths[h]

    agree(None, mask, decoding(), heads=4)


def layouts(shape):
    """One tensor of a shape in several layouts."""
    b, h, n, d = shape
    yield torch.randn(b * h * n * d + 3, dtype=torch.float64)[3:].view(shape)
    yield torch.randn(b, n, h, d, dtype=torch.float64).transpose(1, 2)
    yield torch.randn(b, h, n, d + 3, dtype=torch.float64)[..., :d]
    yield torch.randn(1, h, n, d, dtype=torch.float64).expand(shape)


@pytest.mark.parametrize("of_q", range(4))
@pytest.mark.parametrize("of_kv", range(4))
def test_strides(of_q, of_kv):
    q = list(layouts((B, 4, 1, 8)))[of_q]
    k, v = (list(layouts((B, 2, KEYS, 8)))[of_kv] for _ in range(2))
    agree(mods.rel_bias, None, (q, k, v))


@pytest.mark.parametrize(("head_dim", "value_dim"), [(8, 16), (24, 8), (17, 17), (13, 7)])
def test_head_sizes(head_dim, value_dim):
    agree(mods.rel_bias, from_position(50), decoding(head_dim=head_dim, value_dim=value_dim))


@pytest.mark.parametrize("shown", ["all", "a window", "a window that blocks do not fit", "none"])
def test_windows(shown):
    first = {"all": 0, "a window": 64, "a window that blocks do not fit": 59, "none": KEYS}[shown]
    agree(mods.identity, lambda b, h, q, kv: kv >= first, decoding(), block=32)


def test_sixty_five_keys_and_two_by_two():
    agree(None, lambda b, h, q, kv: kv < 65, decoding(kv_len=65), block=(1, 64))
    agree(None, mods.causal, tensors(1, 1, 2, 8))


# The paged cache.


def paged(positions, heads=2, head_dim=8, n_pages=40):
    """A cache of pages whose batches hold as many tokens as given, in pages that were reserved in turn."""
    cache = PagedAttention(n_pages, PAGE, len(positions), "cpu")
    for upto in range(PAGE, max(positions) + PAGE, PAGE):
        for b, held in enumerate(positions):
            cache.reserve(torch.tensor(b), torch.tensor(min(upto, held)))
    k, v = (torch.randn(len(positions), heads, KEYS, head_dim, dtype=torch.float64) for _ in range(2))
    stored = [torch.zeros(1, heads, n_pages * PAGE, head_dim, dtype=torch.float64) for _ in range(2)]
    for b, held in enumerate(positions):
        places = torch.arange(held)[None]
        cache.assign(torch.tensor([b]), places, k[b : b + 1, :, :held], v[b : b + 1, :, :held], *stored)
    return cache, (k, v), stored


@pytest.mark.parametrize("positions", [(96, 96), (5, 90, 47, 96)])
@pytest.mark.parametrize("name", ["identity", "relative bias", "alibi"])
def test_the_pages_of_torch(name, positions):
    batch, lengths = len(positions), torch.tensor(positions)
    cache, (k, v), stored = paged(positions)
    q = torch.randn(batch, 4, 1, 8, dtype=torch.float64)

    def causal(b, h, q_idx, kv):
        return q_idx + lengths[b] > kv

    def score(s, b, h, q_idx, kv):
        return mods.SCORES[name](s, b, h, q_idx + lengths[b] - 1, kv)

    results = []
    for made in (theirs, flex):
        mask = made.create_block_mask(causal, batch, 1, 1, KEYS, "cpu", (1, PAGE))
        physical = cache.convert_logical_block_mask(mask, kv_len=lengths)
        if made is flex:
            physical = flex.BlockMask.from_torch(physical)
        results.append(physical)
    for one, other in zip(results[0].as_tuple(), results[1].as_tuple(), strict=True):
        assert not isinstance(one, torch.Tensor) or torch.equal(one, other)
    paged_score = cache.get_score_mod(score, lengths)
    found = flex.flex_attention(q, *stored, paged_score, results[1], enable_gqa=True)
    wanted, _ = dense(score, causal, q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    close("out", found, wanted, 1e-11)


def test_several_scores_over_one_cache():
    lengths = torch.tensor([40, 33])
    cache, (k, v), stored = paged((40, 33))
    q = torch.randn(2, 2, 1, 8, dtype=torch.float64)
    mask = cache.convert_logical_block_mask(
        flex.create_block_mask(flex.noop_mask, 2, 1, 1, KEYS, "cpu", (1, PAGE)), kv_len=lengths
    )
    for score in (mods.identity, mods.times_two, mods.squared):
        found = flex.flex_attention(q, *stored, cache.get_score_mod(score, lengths), mask)
        wanted, _ = dense(score, lambda b, h, i, j: j < lengths[b], q, k, v)
        close("out", found, wanted, 1e-11)

"""Masks exported to other formats say exactly what they say here, or are refused."""

from __future__ import annotations

import pytest
import torch

from attncc import flex
from attncc.errors import UnsupportedError
from attncc.flex.exchange import block_rows, flashmask_columns, key_intervals
from tests.flex.mods import causal, window
from tests.flex.oracle import close, dense, tensors, theirs

OWNER = torch.tensor([[0] * 90 + [1] * 130 + [2] * 80, [0] * 10 + [1] * 10 + [2] * 280])


def documents(b, h, q, kv):
    return OWNER[b, q] == OWNER[b, kv]


def causal_documents(b, h, q, kv):
    return documents(b, h, q, kv) & (q >= kv)


def prefix(b, h, q, kv):
    return (q >= kv) | (kv < 40)


def late(b, h, q, kv):
    return q >= 150


def sink(b, h, q, kv):
    return (q >= kv) & ((q - kv < 20) | (kv < 4))


def striped(b, h, q, kv):
    return (q - kv) % 9 == 0


def by_head(b, h, q, kv):
    return (q - kv).abs() <= 10 * h


MASKS = {f.__name__: f for f in (causal, documents, causal_documents, prefix, late, sink, striped, by_head)}
MASKS |= {"window": window(30), "everything": flex.noop_mask, "nothing": flex.or_masks()}


def made(name, q_len=300, kv_len=290, batch=2, heads=2):
    return flex.create_block_mask(MASKS[name], batch, heads, q_len, kv_len, "cpu", 64)


def exact(name, q_len=300, kv_len=290):
    return flex.create_mask(MASKS[name], 2, 2, q_len, kv_len, "cpu")


@pytest.mark.parametrize("name", MASKS)
def test_key_intervals(name):
    found = key_intervals(made(name))
    keys = torch.arange(290)
    shown = ((keys >= found.starts[..., None]) & (keys < found.stops[..., None])).any(-2)
    assert torch.equal(shown, exact(name))
    assert torch.equal(found.counts, (found.starts < found.stops).sum(-1))
    apart = found.starts[..., 1:] > found.stops[..., :-1]
    assert torch.all(apart | (found.starts[..., 1:] == found.stops[..., 1:]))


def test_too_many_intervals_are_refused():
    assert key_intervals(made("sink"), 2).starts.shape[-1] == 2
    with pytest.raises(UnsupportedError, match="a query sees 2 ranges of keys, but the format holds 1"):
        key_intervals(made("sink"), 1)


def read_columns(columns, causal, length):
    """What FlashMask's columns show, as its paper reads them."""
    rows, keys = torch.arange(length)[:, None], torch.arange(columns.shape[-2])
    start, *more = columns.unbind(-1)
    at = [t[..., None, :] for t in (start, *more)]
    if causal:
        stop = at[1] if len(at) == 2 else length
        return ~((rows >= at[0]) & (rows < stop)) & (rows >= keys)
    if len(at) == 2:
        return ~((rows >= at[0]) | (rows < at[1]))
    return ~(((rows >= at[0]) & (rows < at[1])) | ((rows >= at[2]) & (rows < at[3])))


COLUMNS = {"causal": 1, "causal_documents": 1, "sink": 1, "window": 1, "nothing": 1}


@pytest.mark.parametrize("name", COLUMNS)
def test_causal_flashmask_columns(name):
    found = flashmask_columns(made(name, 300, 300), causal=True)
    assert found.shape == (2, 2, 300, COLUMNS[name])
    assert torch.equal(read_columns(found, True, 300), exact(name, 300, 300))


def test_a_hidden_range_that_ends_takes_two_columns():
    def gap(b, h, q, kv):
        return (q >= kv) & ((q < 100) | (q >= 200) | (kv > 150))

    mask = flex.create_block_mask(gap, None, None, 300, 300, "cpu")
    found = flashmask_columns(mask, causal=True)
    assert found.shape[-1] == 2
    assert torch.equal(read_columns(found, True, 300), flex.create_mask(gap, 1, 1, 300, 300, "cpu"))


@pytest.mark.parametrize(
    "name", ["causal", "documents", "prefix", "late", "by_head", "window", "everything", "nothing"]
)
def test_flashmask_columns(name):
    found = flashmask_columns(made(name), causal=False)
    assert found.shape[-1] in (2, 4)
    assert torch.equal(read_columns(found, False, 300), exact(name))


def test_what_flashmask_cannot_say_is_refused():
    with pytest.raises(UnsupportedError, match=r"hidden from 3[0-9] ranges of queries, but the format holds 2"):
        flashmask_columns(made("striped"), causal=False)
    with pytest.raises(UnsupportedError, match="a query sees a later key"):
        flashmask_columns(made("documents"), causal=True)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("group", [(0, 0), (1, 1)])
def test_block_rows(name, group):
    found = block_rows(made(name, 256, 256), *group)
    shown = torch.zeros(256, 256, dtype=torch.bool)
    for row in range(4):
        for place in range(int(found.indptr[row]), int(found.indptr[row + 1])):
            column = int(found.indices[place])
            tile = torch.ones(64, 64, dtype=torch.bool) if found.mask is None else found.mask[place]
            shown[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = tile
    assert torch.equal(shown, exact(name, 256, 256)[group])
    assert found.block == (64, 64)


def test_block_rows_of_full_blocks_need_no_mask():
    mask = flex.create_block_mask(lambda b, h, q, kv: q // 64 >= kv // 64, None, None, 256, 256, "cpu", 64)
    found = block_rows(mask)
    assert found.mask is None
    assert found.indptr.tolist() == [0, 1, 3, 6, 10]


def test_block_rows_refuse_what_they_cannot_hold():
    with pytest.raises(UnsupportedError, match="300 queries are no multiple of 64"):
        block_rows(made("causal"))


def test_block_masks_go_to_torch_and_back():
    mine = made("causal_documents")
    other = mine.to_torch()
    assert type(other) is theirs.BlockMask
    back = flex.BlockMask.from_torch(other)
    assert not back.is_symbolic
    q, k, v = tensors(2, 2, 300, 8, kv_len=290)
    wanted, _ = dense(None, causal_documents, q, k, v)
    for mask in (mine, other, back):
        close("out", flex.flex_attention(q, k, v, block_mask=mask), wanted, 1e-11)

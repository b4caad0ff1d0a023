import numpy as np
import pytest
import torch

import attncc
from attncc.errors import InputError
from attncc.reference import evaluate_dense
from tests.api.cases import WINDOW, causal

SIZES = {"batch": 2, "heads": 4, "q_len": 63, "kv_len": 100}
BODIES = (
    "mask = 0 <= q_idx - kv_idx < 20",
    "mask = (q_idx + kv_idx) % 5 != h",
    "mask = q_idx + kv_len - q_len >= kv_idx and b == 1",
    "capture ids: int[batch, kv_len]\n  mask = ids[b, q_idx] == ids[b, kv_idx]",
    "score = where(q_idx >= kv_idx, score, -inf)",
    "mask = false",
    "mask = true",
)


@pytest.mark.parametrize("body", BODIES)
def test_a_small_picture_shows_every_pair_of_every_head(body):
    from attncc.passes import lift

    variant = attncc.loads(f"attention a:\n  {body}\n")
    ids = {"ids": torch.sort(torch.randint(0, 5, (2, 100)))[0]} if variant.spec.captures else {}
    picture = variant.picture(63, 100, heads=4, batch=1, block_m=16, block_n=16, **ids)
    mask = evaluate_dense(lift(variant.spec).mask, SIZES, ids)[1].numpy()
    drawn = {head: panel.shares for panel in picture.panels for head in panel.heads}
    for head, shares in drawn.items():
        assert np.array_equal(shares, mask[head])
    assert set(drawn) in ({0}, {0, 1, 2, 3})


def test_heads_and_batches_are_those_of_the_captured_tensors():
    text = "attention a:\n  capture w: int[heads]\n  mask = 0 <= q_idx - kv_idx < w[h]\n"
    picture = attncc.loads(text).picture(64, 64, w=torch.tensor([4, 8, 4]), block_m=16, block_n=16)
    assert [panel.heads for panel in picture.panels] == [(0, 2), (1,)]


def test_long_pictures_are_quick(tmp_path):
    path = attncc.compile(mask_mod=causal).plot(1_000_000, 1_000_000, tmp_path / "long.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_captures_are_named():
    with pytest.raises(InputError, match="needs slopes="):
        attncc.loads(WINDOW).picture(64, 64)


@pytest.mark.parametrize("length", [-1, 2.0, True, "64"])
def test_lengths_are_ints_of_at_least_0(length):
    with pytest.raises(InputError, match="`q_len` must be an int of at least 0"):
        attncc.compile(mask_mod=causal).picture(length, 64)


def test_a_batch_that_is_not_there_is_refused():
    variant = attncc.loads("attention a:\n  capture n: int[batch]\n  mask = kv_idx < n[b]\n")
    with pytest.raises(InputError, match="there is no batch 2: the captured tensors have 2"):
        variant.picture(8, 8, batch=2, n=torch.tensor([3, 4]))


def test_empty_lengths_can_be_drawn(tmp_path):
    assert attncc.compile(mask_mod=causal).plot(0, 5, tmp_path / "empty.svg").is_file()

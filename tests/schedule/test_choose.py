"""Schedules and their reasons."""

from __future__ import annotations

import pytest

from attncc.analysis import tile_test
from attncc.errors import InputError
from attncc.frontend import parse
from attncc.schedule import TORCH_CPU, Problem, choose_schedule

HEADER = "attn 1\nattention one(window: int = 8):\n"


def chosen(mask: str, **asked: int):
    spec = parse(f"{HEADER}  capture ids: int[q_len]\n  mask = {mask}\n")
    return choose_schedule(tile_test(spec.mask), Problem(**asked), TORCH_CPU)


@pytest.mark.parametrize(
    ("mask", "tile_q"),
    [
        ("q_idx >= kv_idx", 256),
        ("true", 256),
        ("0 <= q_idx - kv_idx and q_idx - kv_idx < window", 128),
        ("ids[q_idx] == ids[kv_idx]", 128),
    ],
)
def test_masks_that_leave_few_keys_get_low_tiles(mask, tile_q):
    assert chosen(mask).tile_q == tile_q


def test_what_the_caller_asks_for_is_taken_and_said():
    found = chosen("q_idx >= kv_idx", tile_q=48, tile_kv=33)
    assert (found.tile_q, found.tile_kv) == (48, 33)
    assert found.reasons[:2] == ("tile_q = 48: asked for", "tile_kv = 33: asked for")


@pytest.mark.parametrize("size", [0, -1, 1 << 17])
def test_impossible_tiles_are_refused(size):
    with pytest.raises(InputError, match=f"block_m is {size}, which it cannot be"):
        chosen("true", tile_q=size)

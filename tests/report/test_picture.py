import numpy as np
import pytest

from attncc.report.picture import FULL, MAX_BOXES, MAX_PANELS, SKIP, make_canvas
from tests.report.masks import window_picture


def pairs(q_len, kv_len, window):
    distance = np.arange(q_len)[:, None] - np.arange(kv_len)[None]
    return (distance >= 0) & (distance < window)


@pytest.mark.parametrize(("q_len", "kv_len", "tile"), [(1, 1, 128), (63, 100, 16), (257, 257, 64), (300, 100, 128)])
def test_each_pixel_is_the_pair_where_every_pair_has_a_pixel(q_len, kv_len, tile):
    (panel,) = window_picture(q_len, kv_len, tile, lambda head: 40).panels
    assert np.array_equal(panel.shares, pairs(q_len, kv_len, 40))


def test_a_pixel_of_several_pairs_is_the_share_of_sampled_ones():
    (panel,) = window_picture(257, 257, 16, lambda head: 40, pixels=64).panels
    assert panel.shares.shape == (64, 64)
    exact = pairs(257, 257, 40).mean()
    assert abs(panel.shares.mean() - exact) < 0.02


def test_a_picture_of_a_million_positions_looks_at_few_pairs():
    evaluated = []
    picture = window_picture(1_000_000, 1_000_000, 128, lambda head: 100_000, evaluated=evaluated)
    assert sum(evaluated) <= 4 * 512 * 512
    assert max(picture.panels[0].classes.shape) <= MAX_BOXES


def test_boxes_are_whole_tiles():
    canvas = make_canvas(1_000_000, 100, 128, 64)
    assert canvas.box_q % 128 == 0
    assert canvas.box_kv == 64
    assert not canvas.boxes_are_tiles
    assert make_canvas(4096, 4096, 128, 128).boxes_are_tiles


def test_heads_that_see_alike_share_a_panel():
    picture = window_picture(256, 256, 32, lambda head: 32 if head % 2 else 100, heads=6)
    assert [panel.heads for panel in picture.panels] == [(0, 2, 4), (1, 3, 5)]


def test_more_groups_of_heads_than_can_be_drawn_are_counted():
    picture = window_picture(256, 256, 32, lambda head: 10 * (head + 1), heads=MAX_PANELS + 3)
    assert len(picture.panels) == MAX_PANELS
    assert picture.left_out == 3


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 10), (10, 0), (0, 0)])
def test_empty_lengths_give_an_empty_picture(q_len, kv_len):
    (panel,) = window_picture(q_len, kv_len).panels
    assert panel.shares.size == 0
    assert panel.count(SKIP) == panel.count(FULL) == 0

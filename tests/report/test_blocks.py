from attncc.report.blocks import SHADES, draw_blocks
from tests.report.masks import window_picture


def test_the_picture_without_colour(golden):
    assert draw_blocks(window_picture(257, 257, 32, lambda head: 80), width=32, color=False).plain + "\n" == golden


def test_every_pair_of_a_small_mask_is_drawn():
    text = draw_blocks(window_picture(4, 4, 1, lambda head: 2), color=False).plain.split("\n")
    assert text[2:6] == ["██······", "████····", "··████··", "····████"]


def test_a_picture_is_never_wider_than_asked():
    for color in (True, False):
        text = draw_blocks(window_picture(1000, 3000), width=40, color=color).plain
        rows = [row for row in text.split("\n") if row and set(row) <= {*SHADES, "▀"}]
        assert rows
        assert max(map(len, rows)) == 40


def test_panels_of_heads_stand_below_each_other():
    text = draw_blocks(window_picture(64, 64, 16, lambda head: 5 + 20 * head, heads=2), color=False).plain
    assert text.index("head 0\n") < text.index("head 1\n")


def test_an_empty_picture_says_so():
    assert "0 of 0 tiles visited" in draw_blocks(window_picture(0, 5), color=False).plain

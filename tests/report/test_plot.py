import numpy as np
import pytest
from matplotlib.colors import to_rgb

from attncc.errors import InputError
from attncc.report.plot import (
    FULL_COLOR,
    HIDDEN_COLOR,
    SKIPPED_COLOR,
    VISIBLE_COLOR,
    caption,
    colors,
    save,
    spell_heads,
    ticks,
)
from tests.report.masks import window_picture

COLORS = (SKIPPED_COLOR, HIDDEN_COLOR, VISIBLE_COLOR, FULL_COLOR)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_equal_pictures_are_equal_files(tmp_path, suffix):
    files = [save(window_picture(300, 200), tmp_path / f"{name}{suffix}") for name in "ab"]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix.lower() == ".png" else b"<?xml")


def test_a_picture_that_is_neither_png_nor_svg_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        save(window_picture(10, 10), tmp_path / "mask.jpg")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        save(window_picture(10, 10), tmp_path / "nowhere" / "mask.png")


def test_every_pixel_has_the_colour_of_its_class():
    picture = window_picture(256, 256, 64, lambda head: 100)
    image = colors(picture, picture.panels[0])
    assert np.allclose(image[10, 200], to_rgb(SKIPPED_COLOR))
    assert np.allclose(image[10, 20], to_rgb(HIDDEN_COLOR))
    assert np.allclose(image[20, 10], to_rgb(VISIBLE_COLOR))
    assert np.allclose(image[90, 40], to_rgb(VISIBLE_COLOR))  # 90 - 40 < 100, but the tile reaches 127 - 0
    full = window_picture(256, 256, 64, lambda head: 128)
    assert np.allclose(colors(full, full.panels[0])[90, 40], to_rgb(FULL_COLOR))


def test_colours_differ_in_lightness():
    lightness = sorted(np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) for color in COLORS)
    assert min(np.diff(lightness)) > 0.1


def test_the_caption_counts_tiles():
    picture = window_picture(2048, 2048, 128, lambda head: 256)
    assert caption(picture, picture.panels[0]) == "45 of 256 tiles visited (17.6 %), 15 full"


def test_runs_of_heads_are_joined():
    assert spell_heads((3,)) == "head 3"
    assert spell_heads((0, 1, 2, 5, 7, 8)) == "heads 0–2, 5, 7–8"


@pytest.mark.parametrize(("length", "box"), [(1, 128), (10, 4), (257, 64), (2048, 128), (1_000_000, 2048), (0, 16)])
def test_ticks_are_few_and_inside(length, box):
    positions = ticks(length, box)
    assert positions[0] == 0
    assert positions[-1] <= length
    assert len(positions) <= 11


def test_many_heads_and_empty_lengths_can_be_drawn(tmp_path):
    save(window_picture(100, 150, 16, lambda head: 10 + 20 * head, heads=10), tmp_path / "heads.png")
    save(window_picture(0, 150), tmp_path / "empty.svg")

import pytest
import torch

from tests.commands.runner import PACKED, WINDOW, attncc


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "window.attn").write_text(WINDOW)
    (tmp_path / "packed.attn").write_text(PACKED)
    return tmp_path


def test_without_a_file_the_mask_is_drawn_as_text(golden):
    finished = attncc("plot", "window.attn", "-q", 1024, "--width", 32, "--block-m", 128, "--block-n", 128)
    assert finished.code == 0
    assert finished.out == golden


@pytest.mark.parametrize(("name", "start"), [("mask.png", b"\x89PNG"), ("mask.svg", b"<?xml")])
def test_pictures_are_written_where_asked(files, name, start):
    finished = attncc("plot", "window.attn", "-q", 300, "-o", name)
    assert finished.out == f"wrote {name}\n"
    assert (files / name).read_bytes().startswith(start)


def test_example_data_is_named():
    finished = attncc("plot", "packed.attn", "-q", 300, "--batch", 1, "--heads", 2)
    assert finished.code == 0
    assert "example data, seed 0: doc_ids [2, 300], slopes [2]" in finished.err


def test_a_length_of_a_million_is_no_trouble():
    assert attncc("plot", "window.attn", "-q", 1_000_000).code == 0


def test_other_formats_are_refused():
    finished = attncc("plot", "window.attn", "-o", "mask.gif")
    assert finished.code == 1
    assert "the name must end in .png or .svg" in finished.err


def test_json_counts_the_boxes_of_the_picture(files):
    finished = attncc("plot", "window.attn", "-q", 1024, "--block-m", 128, "--block-n", 64, "-o", "mask.png", "--json")
    shown = finished.json
    assert (shown["q_len"], shown["box_q"], shown["box_kv"], shown["out"]) == (1024, 128, 64, "mask.png")
    assert (files / "mask.png").exists()
    distance = torch.arange(1024)[:, None] - torch.arange(1024)
    tiles = ((distance >= 0) & (distance < 256)).view(8, 128, 16, 64).transpose(1, 2).reshape(128, -1)
    skipped, full = int((~tiles.any(1)).sum()), int(tiles.all(1).sum())
    (panel,) = shown["panels"]
    assert (panel["skipped"], panel["full"], panel["masked"]) == (skipped, full, 128 - skipped - full)


def test_json_names_the_example_data():
    assert attncc("plot", "packed.attn", "-q", 256, "--json").json["example_data"] == ["doc_ids", "slopes"]

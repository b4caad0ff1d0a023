import json

import pytest
import torch

from attncc.commands.demo.data import MAX_EXCERPT, batches, library_files
from attncc.commands.demo.verb import prepare
from attncc.errors import InputError
from tests.commands.runner import attncc


def test_the_text_is_that_of_the_standard_library():
    names = {path.name for path in library_files()}
    assert {"argparse.py", "ast.py", "heapq.py"} <= names


def test_batches_are_packed_excerpts_and_the_same_for_a_seed():
    first, again, other = (next(batches(2, 512, seed)) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.tokens.shape == (2, 513)
    assert first.documents.shape == (2, 512)
    assert bool((first.documents[:, 0] == 0).all())
    steps = first.documents.diff(dim=1)
    assert bool(((steps == 0) | (steps == 1)).all())
    assert int(first.documents.max()) >= 512 // MAX_EXCERPT


def test_consecutive_sequences_share_one_byte():
    stream = batches(1, 100, 0)
    first, second = next(stream).tokens[0], next(stream).tokens[0]
    assert first[-1] == second[0]


def test_the_demo_trains_both_ways_and_leaves_its_folder(tmp_path):
    out = tmp_path / "demo"
    finished = attncc("demo", "--steps", 3, "--out", out, "--json")
    assert finished.code == 0
    results = finished.json
    assert results == json.loads((out / "results.json").read_text())
    assert results["largest_difference"] < 1e-3
    ours, dense = (run["losses"] for run in results["runs"].values())
    assert len(ours) == len(dense) == 3
    assert ours[-1] < ours[0]
    assert 0 < results["tiles"]["visited"] < results["tiles"]["total"]
    left = {path.name for path in out.iterdir()}
    assert left == {"mask.png", "loss.png", "kernel.py", "explain.txt", "variant.attn", "results.json"}
    assert "def backward" in (out / "kernel.py").read_text()
    prepare(out)  # its own folder may be used again


@pytest.mark.slow
def test_fifty_steps_agree_with_the_dense_reference(tmp_path):
    results = attncc("demo", "--out", tmp_path / "demo", "--json").json
    assert results["steps"] == 50
    assert results["largest_difference"] < 1e-3
    losses = results["runs"]["attncc"]["losses"]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_the_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        prepare(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        prepare(tmp_path / "mine.txt")
    finished = attncc("demo", "--out", tmp_path)
    assert finished.code == 1
    assert "name another folder with --out" in finished.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

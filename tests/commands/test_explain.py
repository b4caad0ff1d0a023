import json

import numpy as np
import pytest
import torch

import attncc as library
from tests.commands.runner import PACKED, PYTHON, WINDOW, attncc


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "window.attn").write_text(WINDOW)
    (tmp_path / "packed.attn").write_text(PACKED)
    (tmp_path / "functions.py").write_text(PYTHON)
    return tmp_path


@pytest.mark.usefixtures("files")
def test_the_explanation_is_that_of_the_api():
    q = torch.empty(1, 8, 500, 64, requires_grad=True)
    expected = library.loads(WINDOW).explain(q, q, q).to_dict()
    found = attncc("explain", "window.attn", "-q", 500, "--json").json
    assert found.pop("example_data") == []
    for one in (expected, found):  # the two texts have different names
        for condition in one["conditions"]:
            condition["place"] = condition["place"].partition(":")[2]
    assert found == json.loads(json.dumps(expected))


@pytest.mark.usefixtures("files")
def test_parameters_and_shapes_are_those_of_the_command_line():
    options = ("--heads", 6, "--kv-heads", 2, "--head-dim", 32, "--dtype", "bfloat16", "--batch", 3, "-k", 700)
    call = attncc("explain", "window.attn", "-q", 500, "-p", "window=64", *options, "--json").json["call"]
    assert call["parameters"] == {"window": 64}
    assert (call["q"], call["k"]) == ([3, 6, 500, 32], [3, 2, 700, 32])
    assert call["dtype"] == "bfloat16"


@pytest.mark.usefixtures("files")
def test_example_data_is_seeded_and_named():
    first, again = (attncc("explain", "packed.attn", "-q", 500) for _ in range(2))
    assert first.out == again.out
    assert "example data, seed 0: doc_ids [1, 500], slopes [8]" in first.err
    assert "doc_ids [1, 500]" not in first.out
    other = attncc("explain", "packed.attn", "-q", 500, "--seed", 3)
    assert "seed 3" in other.err


@pytest.mark.usefixtures("files")
def test_captured_tensors_come_from_files():
    np.save("ids.npy", np.repeat(np.arange(5), 100)[None])
    found = attncc("explain", "packed.attn", "-q", 500, "-c", "doc_ids=ids.npy", "--json").json
    assert found["example_data"] == ["slopes"]
    ids = torch.repeat_interleave(torch.arange(5), 100)[None]
    q = torch.empty(1, 8, 500, 64)
    expected = library.loads(PACKED).explain(q, q, q, doc_ids=ids, slopes=torch.ones(8)).tiles
    assert found["tiles"]["visited"] == expected.visited


@pytest.mark.usefixtures("files")
def test_python_functions_bring_their_own_tensors():
    finished = attncc("explain", "functions.py:alibi,near", "-q", 300)
    assert finished.code == 0
    assert "slopes" in finished.out
    assert finished.err == ""


MISTAKES = {
    "no value": (["-p", "window"], 2, "'window' should be NAME=VALUE"),
    "twice": (["-p", "window=1", "-p", "window=2"], 2, "`window` is given twice"),
    "no number": (["-p", "window=wide"], 2, "`window` must be a number"),
    "unknown parameter": (["-p", "windows=3"], 1, "windows"),
    "no int": (["-p", "window=2.5"], 1, "window"),
    "dtype": (["--dtype", "int8"], 2, "'int8' is not one of float32"),
    "unknown capture": (["-c", "ids=missing.npy"], 1, "there is no file missing.npy"),
    "device": (["--device", "xpu:9"], 1, "xpu:9 cannot hold a tensor"),
    "heads": (["--heads", "6", "--kv-heads", "4"], 1, "6 query heads cannot share 4 key heads"),
    "negative": (["--heads", "0"], 2, "Invalid value for '--heads'"),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("options", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_command_line_is_explained(options, code, message):
    finished = attncc("explain", "window.attn", *options)
    assert finished.code == code
    assert message in finished.err
    assert finished.out == ""


def test_refine_looks_inside_the_tiles_of_captured_values(files):
    np.save(
        files / "ids.npy", np.tile([0, 2], 128)[None].repeat(1, 0) * (np.arange(256) < 128) + (np.arange(256) > 127)
    )
    given = ("explain", "packed.attn", "-q", 256, "--capture", "doc_ids=ids.npy", "--block-m", 64, "--block-n", 64)
    plain, refined = (attncc(*given, *more, "--json").json for more in ((), ("--refine",)))
    assert refined["tiles"]["skipped"] > plain["tiles"]["skipped"]
    assert "refine looked inside" in refined["table"][-1]

import numpy as np
import pytest
import torch

from attncc.commands.tensors import example_captures, read_tensor
from attncc.errors import InputError
from attncc.frontend import parse

SIZES = {"batch": 2, "heads": 4, "q_len": 50, "kv_len": 60}


def examples(text, **sizes):
    return example_captures(parse(text), {**SIZES, **sizes}, {}, 0, "cpu")


def test_npy_files_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    assert torch.equal(read_tensor("x", str(tmp_path / "x.npy")), torch.arange(6).reshape(2, 3))


def test_safetensors_files_are_read_by_key(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "x.safetensors"
    save_file({"one": torch.ones(2), "two": torch.zeros(3)}, path)
    assert read_tensor("one", str(path)).shape == (2,)
    assert read_tensor("x", f"{path}:two").shape == (3,)
    with pytest.raises(InputError, match="has no tensor `x`\nhint: it has one, two"):
        read_tensor("x", str(path))
    save_file({"only": torch.zeros(4)}, path)
    assert read_tensor("x", str(path)).shape == (4,)


def test_a_missing_safetensors_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"needs the package safetensors\nhint: pip install 'attncc\[safetensors\]'"):
        read_tensor("x", str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"no array", "cannot be read"),
        ("x.npy", b"", "cannot be read"),
        ("x.safetensors", b"nothing", "cannot be read"),
        ("x.txt", b"", "is neither .npy nor .safetensors"),
    ],
)
def test_damaged_and_foreign_files_are_input_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_tensor("x", str(tmp_path / name))


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_tensor("x", str(tmp_path / "x.npy"))


def test_examples_have_the_declared_sizes():
    made = examples(
        "attention a:\n  capture x: float[batch, heads, 7]\n  capture y: bool[q_len]\n  capture z: float\n"
        "  mask = y[q_idx]\n  score = score * x[b, h, 3] + z\n"
    )
    assert [tuple(tensor.shape) for tensor in made.values()] == [(2, 4, 7), (50,), ()]
    assert [tensor.dtype for tensor in made.values()] == [torch.float32, torch.bool, torch.float32]


def test_a_free_size_is_as_large_as_its_indices_need():
    made = examples("attention a:\n  capture t: float[_]\n  score = score + t[clamp(q_idx - kv_idx, -9, 5) + 9]\n")
    assert made["t"].shape == (15,)
    made = examples("attention a:\n  capture t: float[_]\n  score = score + t[kv_idx - q_idx - 1]\n")
    assert made["t"].shape == (59,)


def test_ints_that_are_indices_stay_inside_what_they_index():
    made = examples(
        "attention a:\n  capture kind: int[kv_len]\n  capture t: float[3]\n  score = score + t[kind[kv_idx]]\n"
    )
    assert int(made["kind"].max()) <= 2
    assert int(made["kind"].min()) >= 0


def test_documents_are_consecutive():
    ids = examples("attention a:\n  capture ids: int[batch, q_len]\n  mask = ids[b, q_idx] == ids[b, kv_idx]\n")["ids"]
    assert bool((ids.diff(dim=1) >= 0).all())
    assert ids.unique().numel() > 2


def test_given_tensors_are_not_replaced():
    spec = parse("attention a:\n  capture x: float[heads]\n  score = score * x[h]\n")
    assert example_captures(spec, SIZES, {"x": torch.ones(4)}, 0, "cpu") == {}


def test_an_index_without_a_bound_asks_for_the_tensor():
    text = "attention a:\n  capture t: float[_]\n  score = score + t[int(exp(score))]\n"
    with pytest.raises(InputError, match=r"no example data for `t`.*\n?.*--capture t=FILE.npy"):
        examples(text)


@pytest.mark.parametrize("path", sorted(__import__("pathlib").Path("examples").rglob("*.attn")), ids=lambda p: p.stem)
def test_every_shipped_text_can_be_explained_with_example_data(path):
    from tests.commands.runner import attncc

    finished = attncc("explain", path, "-q", 96, "--batch", 2, "--heads", 4, "--head-dim", 8)
    assert finished.code == 0, finished.err

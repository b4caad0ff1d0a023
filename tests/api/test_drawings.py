"""The exact drawing of each error that a call can raise: `tests/errors/inputs/<name>.txt`."""

import pickle
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import attncc
from attncc.errors import AttnccError
from tests.api.cases import WINDOW, causal, inputs
from tests.golden_files import UPDATE, Golden

FOLDER = Path(__file__).resolve().parent.parent / "errors" / "inputs"
TABLE = "attention table:\n  capture t: float[_]\n  mask = q_idx >= kv_idx\n  score = score + t[q_idx - kv_idx]\n"


def plain(q=(2, 4, 5, 8), k=(2, 2, 7, 8), v=(2, 2, 7, 6), **given):
    return attncc.compile(mask_mod=causal)(torch.zeros(q), torch.zeros(k), torch.zeros(v), **given)


def window(**given):
    return attncc.loads(WINDOW)(*inputs(), **given)


def converted(convert, name="q"):
    tensors = {"q": torch.zeros(2, 4, 5, 8), "k": torch.zeros(2, 2, 5, 8), "v": torch.zeros(2, 2, 5, 8)}
    return attncc.compile(mask_mod=causal)(**{**tensors, name: convert(tensors[name])})


def elsewhere(tensor):
    """A tensor that says it is on a GPU; none has to be there."""
    with FakeTensorMode():
        return torch.empty(tensor.shape, device="cuda:0")


def written(name, data):
    Path(name).write_bytes(data)
    return name


def leaving(size, **given):
    return attncc.loads(TABLE)(*inputs(), t=torch.zeros(size), **given)


SLOPES = torch.ones(4)
ERRORS = {
    "rank_of_q": lambda: plain(q=(4, 5, 8)),
    "heads_that_do_not_divide": lambda: plain(q=(2, 5, 5, 8)),
    "head_sizes": lambda: plain(q=(2, 4, 5, 9)),
    "lengths_of_k_and_v": lambda: plain(v=(2, 2, 8, 6)),
    "batches": lambda: plain(k=(3, 2, 7, 8), v=(3, 2, 7, 6)),
    "no_heads": lambda: plain(q=(2, 0, 5, 8)),
    "mixed_dtypes": lambda: converted(torch.Tensor.half),
    "dtype_of_q": lambda: converted(torch.Tensor.long),
    "complex_tensor": lambda: converted(lambda q: q.to(torch.complex64)),
    "sparse_tensor": lambda: converted(torch.Tensor.to_sparse, "k"),
    "devices": lambda: converted(elsewhere, "k"),
    "meta_tensor": lambda: converted(lambda q: q.to("meta")),
    "an_array": lambda: converted(torch.Tensor.numpy, "v"),
    "a_list": lambda: converted(torch.Tensor.tolist, "v"),
    "nan_scale": lambda: plain(scale=float("nan")),
    "tensor_scale": lambda: plain(scale=torch.tensor(0.1)),
    "unknown_backend": lambda: plain(backend="pytorch"),
    "planned_backend": lambda: plain(backend="gluon"),
    "block_size": lambda: plain(block_m=0),
    "missing_capture": lambda: window(),
    "misspelled_capture": lambda: window(slops=SLOPES),
    "unknown_argument": lambda: window(slopes=SLOPES, dropout_p=0.1),
    "capture_of_another_rank": lambda: window(slopes=SLOPES[None]),
    "capture_of_another_size": lambda: window(slopes=torch.ones(3)),
    "capture_of_another_kind": lambda: window(slopes=torch.arange(4)),
    "capture_that_is_no_tensor": lambda: window(slopes=[1.0, 2.0]),
    "parameter_that_is_no_int": lambda: window(slopes=SLOPES, window=2.5),
    "index_that_leaves_its_tensor": lambda: leaving(20),
    "index_that_leaves_its_tensor_in_the_reference": lambda: leaving(20, backend="reference"),
    "missing_file": lambda: attncc.load("casual.attn"),
    "missing_folder": lambda: attncc.load("nowhere/causal.attn"),
    "ten_megabytes_of_text": lambda: attncc.load(written("long.attn", b"# long\n" * 1_500_000)),
    "not_utf8": lambda: attncc.load(written("latin.attn", "attention größe:\n".encode("latin-1"))),
    "a_folder": lambda: attncc.load("variants"),
    "text_to_compile": lambda: attncc.compile("window.attn"),
    "picture_format": lambda: attncc.compile(mask_mod=causal).plot(8, 8, "mask.jpg"),
    "length_of_a_picture": lambda: attncc.compile(mask_mod=causal).plot(-8, 8, "mask.png"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_error_is_drawn_exactly_and_pickles(name, request, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants").mkdir()
    (tmp_path / "causal.attn").write_text("attention causal:\n  mask = q_idx >= kv_idx\n")
    with pytest.raises(AttnccError) as caught:
        ERRORS[name]()
    golden = Golden(FOLDER / f"{name}.txt", request.config.getoption(UPDATE))
    assert f"{caught.value.describe()}\n" == golden
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_every_drawing_has_its_error():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(ERRORS)

"""Captured tensors without elements: harmless where no visible pair reads them, an error or NaN where one does."""

import pytest
import torch

import attncc
from attncc.errors import InputError
from tests.api.cases import inputs

TABLE = "attention t:\n  capture t: float[_]\n  mask = {mask}\n  score = score + t[kv_idx]\n"
DOCUMENTS = "attention d:\n  capture ids: int[_]\n  mask = ids[kv_idx] == ids[q_idx]\n"
BACKENDS = ("torch", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("text", "captures", "name"),
    [
        (TABLE.format(mask="true"), {"t": torch.zeros(0)}, "t"),
        (TABLE.format(mask="q_idx >= kv_idx"), {"t": torch.zeros(0)}, "t"),
        (DOCUMENTS, {"ids": torch.zeros(0, dtype=torch.int64)}, "ids"),
    ],
)
def test_a_visible_pair_that_reads_an_empty_tensor_is_an_error_or_nan(text, captures, name, backend):
    q, k, v = inputs()
    variant = attncc.loads(text)
    with pytest.raises(InputError, match=rf"`{name}` is empty, \[0\], but is read at a visible pair"):
        variant(q, k, v, **captures, backend=backend)
    assert variant(q, k, v, **captures, backend=backend, check_bounds=False).isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_tensor_is_harmless_where_only_hidden_pairs_read_it(backend):
    q, k, v = inputs(grad=True)
    table = torch.zeros(4, 0, requires_grad=True)
    text = "attention t:\n  capture t: float[heads, _]\n  score = where(kv_idx < 9, score, t[h, kv_idx])\n"
    text += "  mask = kv_idx < 9\n"
    out = attncc.loads(text)(q, k, v, t=table, backend=backend)
    torch.testing.assert_close(out, attncc.attention(q, k[:, :, :9], v[:, :, :9], backend=backend))
    out.sum().backward()
    assert q.grad.isfinite().all()
    assert table.grad is None or table.grad.shape == (4, 0)


def test_calls_with_empty_tensors_are_explained():
    q, k, v = inputs()
    ids = torch.zeros(0, dtype=torch.int64)
    assert "TILES" in str(attncc.loads(DOCUMENTS).explain(q, k, v, ids=ids))

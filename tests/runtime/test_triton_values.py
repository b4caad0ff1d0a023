"""Tensors as kernels take them."""

import torch

from attncc.runtime.triton_values import ALIGNMENT, fit_rows


def test_rows_are_contiguous_and_begin_at_a_multiple_of_16():
    base = torch.randn(2 * 3 * 8 + 1)
    for rows in (base[1:].view(2, 3, 8), base[:-1].view(2, 8, 3).mT, base[:-1].view(2, 3, 8)):
        found = fit_rows(rows)
        assert found.data_ptr() % ALIGNMENT == 0
        assert found.is_contiguous()
        assert torch.equal(found, rows)


def test_rows_that_fit_are_not_copied():
    rows = torch.randn(2, 3, 8)
    assert fit_rows(rows) is rows

"""The share of the counts."""

from __future__ import annotations

import pytest

from tests import share as module
from tests.share import share


@pytest.mark.parametrize(("part", "count", "expected"), [(0.1, 500, 50), (0.1, 3, 1), (0.0, 10, 1), (1.0, 7, 7)])
def test_a_share_is_a_part_of_the_count_and_at_least_one(monkeypatch, part, count, expected):
    monkeypatch.setattr(module, "SHARE", part)
    assert share(count) == expected

"""docs/tiles.md says what happens."""

from __future__ import annotations

import doctest
from pathlib import Path

from attncc.analysis.bands import MAX_RANGES
from attncc.analysis.solver import FEW
from attncc.analysis.transfer import FUNCTION_ERROR

PAGE = Path(__file__).parents[2] / "docs" / "tiles.md"


def test_the_examples_of_the_page_run_as_they_stand() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 30
    assert found.failed == 0


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"more than {MAX_RANGES} remain" in text
    assert f"more than {FEW} conjunctions" in text
    assert FUNCTION_ERROR[0] == 2.0**-10
    assert "2⁻¹⁰" in text

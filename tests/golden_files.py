"""Golden files: what a text was when somebody last read it and agreed.

The fixture `golden` stands for `tests/golden/<test file>/<test name>.txt`: `assert text == golden`. A test with several
texts names them: `assert text == golden("forward")`. `pytest --update-golden` rewrites them; read the diff afterwards.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
UPDATE = "--update-golden"


@dataclass(frozen=True, eq=False)
class Golden:
    """One golden file, equal to exactly the text in it; when `update` is set, it takes the text it is compared with."""

    path: Path
    update: bool

    def __call__(self, name: str) -> Golden:
        """The golden file `name` of the same test (`.txt` unless the name has a suffix)."""
        file_name = name if Path(name).suffix else f"{name}.txt"
        return Golden(self.path.with_suffix("") / file_name, self.update)

    def check(self, text: str) -> None:
        """Fail the test, showing the difference, unless the text is that of the file."""
        if self != text:
            pytest.fail("\n".join(self.difference(text)), pytrace=False)

    def __eq__(self, text: object) -> bool:
        if not isinstance(text, str):
            return NotImplemented
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(text.encode())
        return self.read() == text

    __hash__ = None  # type: ignore[assignment]  # equality depends on a file

    def read(self) -> str:
        """The text of the file; a missing one fails the test and says how to make it."""
        if not self.path.is_file():
            pytest.fail(f"{self} is missing: run this test with {UPDATE}, then read the file", pytrace=False)
        return self.path.read_bytes().decode()

    def difference(self, text: str) -> list[str]:
        """A unified diff from the file to the text, and what to do about it."""
        golden, found = self.read().splitlines(), text.splitlines()
        rows = list(difflib.unified_diff(golden, found, str(self), "this run", lineterm=""))
        ends = [] if rows else ["the texts differ only in their line ends"]
        return [f"the text is not that of {self}", *rows, *ends, f"if the new text is right, run with {UPDATE}"]

    def __str__(self) -> str:
        return self.path.relative_to(TESTS.parent).as_posix() if self.path.is_relative_to(TESTS) else str(self.path)

    __repr__ = __str__


def golden_path(test_file: Path, test_name: str, tests: Path = TESTS) -> Path:
    """Where the golden file of a test lies; parameters in brackets become part of the name."""
    name = re.sub(r"[^\w.=+-]+", "-", test_name, flags=re.ASCII).strip("-")
    return tests / "golden" / test_file.relative_to(tests).with_suffix("") / f"{name}.txt"

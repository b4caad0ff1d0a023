"""Every mistake in a text: `tests/errors` has a file for each, beside it what its user reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attncc.errors import AttnccError, LanguageError, LanguageErrors
from attncc.frontend import parse, read_source
from tests.golden_files import UPDATE, Golden

FOLDER = Path(__file__).resolve().parent.parent / "errors"
TEXTS = sorted(path.name for path in FOLDER.glob("*.attn"))


def drawing(name: str) -> str:
    """What the command line shows for a file."""
    with pytest.raises(AttnccError) as caught:
        parse(read_source(name))
    error = caught.value
    errors = error.errors if isinstance(error, LanguageErrors) else (error,)
    return "\n\n".join(one.describe() for one in errors) + "\n"


@pytest.mark.parametrize("name", TEXTS)
def test_the_drawing_is_the_one_beside_the_text(name, request, monkeypatch):
    monkeypatch.chdir(FOLDER)
    expected = Golden((FOLDER / name).with_suffix(".txt"), request.config.getoption(UPDATE))
    assert drawing(name) == expected


def test_every_drawing_belongs_to_a_text():
    assert [path.name for path in FOLDER.glob("*.txt") if not list(FOLDER.glob(f"{path.stem}.[!t]*"))] == []


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"not_utf8.attn"}))
def test_a_mistake_in_a_text_has_a_place(name, monkeypatch):
    monkeypatch.chdir(FOLDER)
    with pytest.raises(LanguageError) as caught:
        parse(read_source(name))
    assert caught.value.span is not None
    assert caught.value.span.source.name == name


@pytest.mark.parametrize("drawn", sorted(FOLDER.rglob("*.txt")), ids=lambda path: path.stem)
def test_every_error_that_is_drawn_says_what_to_write_instead(drawn):
    errors = re.split(r"^\w+Errors?: ", drawn.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert errors
    silent = [error.splitlines()[0] for error in errors if "hint: " not in error]
    assert [message for message in silent if not re.fullmatch(r"and (\d+|many) more mistakes", message)] == []

"""The templates of the torch back end: Python as they stand, two kinds of hole, nothing decided inside."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from attncc.emit.templates import environment, identifiers, indented, template_text
from attncc.resources import resource_dir

NAMES = sorted(path.name.removesuffix(".py.j2") for path in Path(resource_dir("templates"), "torch").glob("*.py.j2"))
STATEMENT = re.compile(r"^\s*#: (.*)$", re.MULTILINE)
#: `print lines`, and `if` or `for` over plain values of the plan.
ALLOWED = re.compile(r"print \w+ \| lines\(\d+\)|(if|elif) (not )?\w+|else|endif|for \w+ in \w+|endfor")


@pytest.mark.parametrize("name", NAMES)
def test_template_is_python(name: str):
    ast.parse(template_text(f"torch/{name}"))


def test_the_names_of_a_template_are_those_that_python_finds():
    root = Path(str(resource_dir("templates")))
    for path in root.rglob("*.py.j2"):
        name = path.relative_to(root).as_posix().removesuffix(".py.j2")
        tokens = tokenize.generate_tokens(io.StringIO(template_text(name)).readline)
        assert identifiers(name) == {token.string for token in tokens if token.type == tokenize.NAME}, name


@pytest.mark.parametrize("name", NAMES)
def test_template_has_two_kinds_of_hole_and_plain_control(name: str):
    text = template_text(f"torch/{name}")
    assert [line for line in STATEMENT.findall(text) if not ALLOWED.fullmatch(line)] == []
    assert [hole for hole in re.findall(r"{{(.*?)}}", text) if not hole.strip().isidentifier()] == []
    assert "{%" not in text


def test_an_unknown_name_is_an_error():
    with pytest.raises(Exception, match="'missing' is undefined"):
        environment().from_string("{{ missing }}").render()


def test_lines_keep_their_indentation_and_no_trailing_spaces():
    assert indented(["a = 1", "", "b = 2"], 4) == "    a = 1\n\n    b = 2\n"


def test_names_of_a_template_are_taken():
    assert {"queries", "q_len", "weights", "total"} <= identifiers("torch/forward")

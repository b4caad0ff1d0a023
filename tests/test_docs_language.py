"""The pages about the language and its errors say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attncc import errors
from attncc.frontend import parse
from attncc.frontend.expressions import MAX_EXPANSION, MAX_SHOWN
from attncc.frontend.parse import MAX_TEXT
from attncc.ir import INPUTS, Op, Scalar, print_spec
from attncc.ir.syntax import ARGUMENT_NAMES, CONSTANTS, CONVERSIONS, FUNCTIONS, KEYWORDS, OPERATORS, SHORTHANDS, Level
from attncc.ir.verify import MAX_DEPTH
from tests.golden_files import UPDATE

ROOT = Path(__file__).resolve().parent.parent
LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", LANGUAGE, flags=re.DOTALL)
ERRORS = ROOT / "docs" / "errors.md"
DRAWING = re.compile(r"<!-- (\w+) -->\n```text\n(.*?)```\n", re.DOTALL)


def table(title: str) -> list[list[str]]:
    """The rows of the first table below a title, as cells."""
    section = LANGUAGE.split(f"## {title}\n", 1)[1]
    rows = section[section.index("| ") :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_operators_are_those_of_the_printer_loosest_first():
    levels: dict[int, set[str]] = {}
    for operator in OPERATORS.values():
        levels.setdefault(operator.level, set()).add(operator.symbol)
    levels[Level.UNARY].add("~")  # prints as `not`, or as -1 - x
    expected = [levels[level] for level in sorted(levels)]
    assert [set(words(row[0])) for row in table("Operators")] == expected


def test_the_functions_are_those_of_the_language():
    documented = [words(row[0])[0].partition("(")[0] for row in table("Functions")]
    assert sorted(documented) == sorted((*FUNCTIONS, *SHORTHANDS, *CONVERSIONS))


OPERANDS = {"c": "h > 1", "a": "score", "b": "2", "x": "score", "low": "0", "high": "1"}


@pytest.mark.parametrize("call", [words(row[0])[0].replace(", …", "") for row in table("Functions")])
def test_every_documented_call_is_accepted(call):
    name, arguments = call.split("(")
    text = ", ".join(OPERANDS[argument] for argument in arguments.strip(")").split(", "))
    assert parse(f"attention x:\n  score = float({name}({text}))\n").score.scalar is Scalar.FLOAT


def test_the_inputs_are_those_of_an_expression():
    assert {words(row[0])[0]: row[1] for row in table("What a variant sees")} == {
        name: str(scalar) for name, scalar in INPUTS.items()
    }


@pytest.mark.parametrize("names", [CONSTANTS, KEYWORDS, ARGUMENT_NAMES], ids=["constants", "words", "arguments"])
def test_names_that_mean_something_are_named(names):
    assert sorted(set(names) - set(words(PROSE))) == []


def test_the_limits_are_those_of_the_code():
    for limit in (MAX_DEPTH, MAX_EXPANSION, MAX_TEXT):
        assert f"{limit:,}" in LANGUAGE
    assert f"first\n{MAX_SHOWN} are shown" in ERRORS.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```attn\n(.*?)```", LANGUAGE, re.DOTALL))
def test_every_text_on_the_page_is_a_variant(text):
    spec = parse(text)
    assert parse(print_spec(spec)) == spec


@pytest.mark.parametrize("row", table("Kinds of numbers"), ids=lambda row: row[0])
def test_literals_are_of_the_kind_that_the_page_says(row):
    for literal in words(row[2]):  # beside a bool, the literal decides the kind
        score = parse(f"attention x:\n  score = score * where(h > 2, {literal}, h > 1)\n").score
        chosen = score.args[1].args[0] if score.args[1].op is Op.CAST else score.args[1]
        assert (chosen.op, str(chosen.scalar)) == (Op.WHERE, row[0])


def test_the_drawings_are_those_of_the_tests(request):
    page = ERRORS.read_text(encoding="utf-8")
    folder = ROOT / "tests" / "errors"
    expected = DRAWING.sub(
        lambda m: f"<!-- {m[1]} -->\n```text\n{(folder / f'{m[1]}.txt').read_text(encoding='utf-8')}```\n", page
    )
    if request.config.getoption(UPDATE):
        ERRORS.write_text(expected, encoding="utf-8")
        page = expected
    assert len(DRAWING.findall(page)) > 15
    assert page == expected


def test_the_classes_of_the_page_are_those_that_exist():
    page = ERRORS.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) | {"AttnccError"}
    existing = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AttnccError)
    }
    assert documented == existing

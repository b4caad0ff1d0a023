"""Every numbered example runs, and means the same as its twin in text."""

import runpy
from pathlib import Path

import pytest

import attncc

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))


def test_there_are_examples_and_each_has_a_twin():
    assert len(SCRIPTS) >= 8
    assert [path.stem for path in SCRIPTS] == [path.stem for path in sorted(EXAMPLES.glob("[0-9]*.attn"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_example_runs_and_its_twin_means_the_same(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(script))
    assert capsys.readouterr().out
    attention, twin = found["attention"], attncc.load(script.with_suffix(".attn"))
    assert attention.name == twin.name
    assert attention.spec.score is twin.spec.score
    assert attention.spec.mask is twin.spec.mask
    assert sorted((p.name, p.value) for p in attention.spec.parameters) == sorted(
        (p.name, p.value) for p in twin.spec.parameters
    )
    assert sorted(c.name for c in attention.spec.captures) == sorted(c.name for c in twin.spec.captures)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.attn")), ids=lambda path: path.stem)
def test_texts_are_read_and_print_again(path):
    spec = attncc.load(path).spec
    assert attncc.parse(attncc.print_spec(spec)) == spec

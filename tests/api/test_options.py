import inspect
import re

import pytest

import attncc
from attncc.api.options import check_options
from attncc.errors import InputError, UnsupportedError


def options(backend="auto", block_m=None, block_n=None, deterministic=None, check_bounds=None):
    return check_options(backend, block_m, block_n, deterministic, check_bounds)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_the_back_ends_that_exist_can_be_named(backend):
    assert options(backend).backend == backend


@pytest.mark.parametrize("backend", ["gluon"])
def test_a_planned_back_end_is_not_replaced_by_another(backend):
    with pytest.raises(UnsupportedError, match=f'this version of attncc has no back end "{backend}"'):
        options(backend)


def test_a_misspelled_back_end_suggests_the_nearest():
    with pytest.raises(InputError, match='did you mean "torch"'):
        options("troch")
    with pytest.raises(InputError, match="there is no back end None"):
        options(None)


@pytest.mark.parametrize("size", [0, -16, 1 << 20, 16.0, True, "16"])
def test_block_sizes_are_positive_ints(size):
    with pytest.raises(InputError, match="`block_m` must be"):
        options(block_m=size)
    with pytest.raises(InputError, match="`block_n` must be"):
        options(block_n=size)


def test_switches_are_bools_or_none():
    with pytest.raises(InputError, match="`deterministic` must be True, False or None, but is 1"):
        options(deterministic=1)
    with pytest.raises(InputError, match="`check_bounds` must be"):
        options(check_bounds="yes")


def test_bounds_are_checked_on_the_cpu_unless_asked_otherwise():
    assert options().checks_bounds("cpu")
    assert not options().checks_bounds("cuda")
    assert options(check_bounds=True).checks_bounds("cuda")
    assert not options(check_bounds=False).checks_bounds("cpu")


def test_a_setting_decides_for_every_device(monkeypatch):
    monkeypatch.setattr("attncc.api.options.CHECK_BOUNDS", "off")
    assert not options().checks_bounds("cpu")
    assert options(check_bounds=True).checks_bounds("cpu")
    monkeypatch.setattr("attncc.api.options.CHECK_BOUNDS", "on")
    assert options().checks_bounds("cuda")


def test_the_documentation_has_every_argument_of_a_call(repository):
    page = (repository / "docs" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page.partition("## A call")[2].partition("\n## ")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    for call in (attncc.Variant.__call__, attncc.attention):
        arguments = [p.name for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert named == [argument for argument in arguments if argument != "name"]

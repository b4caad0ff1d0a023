"""`import attncc` is lazy: it costs almost nothing, and each public name comes from its room when it is first used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import attncc

HEAVY = ("torch", "triton", "sympy", "lark", "jinja2", "numpy", "matplotlib", "typer", "rich")
SECONDS = 0.15


def run(*arguments: str) -> str:
    """The output of a fresh interpreter; its error if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def public_names() -> list[str]:
    return sorted(set(attncc.__all__) - {"__version__"})


def typed_imports() -> dict[str, str]:
    """What a type checker sees: the room of each name below `if TYPE_CHECKING`."""
    tree = ast.parse(Path(attncc.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_import_loads_no_heavy_library_and_no_room():
    modules = run("-c", "import attncc, sys; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in modules} & set(HEAVY)
    assert [name for name in modules if name.startswith("attncc")] == ["attncc"]


def test_the_errors_and_settings_load_no_heavy_library():
    modules = run("-c", "import attncc.config, attncc.resources, sys; attncc.InputError; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in modules} & set(HEAVY)


def test_calls_load_no_grammar_no_compiler_and_no_reports():
    loaded = run("-c", "import attncc, sys; attncc.attention; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & {"sympy", "lark", "jinja2", "matplotlib", "typer", "rich"}
    late = ("analysis", "passes", "emit", "pipeline", "reference", "report", "commands")
    assert [name for name in loaded if name.startswith(tuple(f"attncc.{room}" for room in late))] == []


def test_import_is_quick():
    # The machine is shared, so the processor's time counts, not the clock's, and the best of several runs.
    code = "import time; start = time.process_time(); import attncc; print(time.process_time() - start)"
    best = min(float(run("-c", code)) for _ in range(5))
    assert best < SECONDS


def test_dir_lists_the_public_names():
    assert set(attncc.__all__) <= set(dir(attncc))


def test_type_checkers_see_the_same_names_and_rooms():
    assert typed_imports() == attncc._HOMES | dict.fromkeys(attncc._MODULES, "attncc")
    assert sorted([*attncc._HOMES, *attncc._MODULES]) == public_names()


@pytest.mark.parametrize("name", sorted(attncc._HOMES))
def test_each_public_name_comes_from_its_room(name):
    room = attncc._HOMES[name]
    assert getattr(attncc, name) is getattr(importlib.import_module(room), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'attncc' has no attribute 'attend'"):
        _ = attncc.attend


def test_a_room_of_the_same_name_never_replaces_a_public_function(monkeypatch):
    """`import attncc.reference` leaves `attncc.reference` the function."""
    monkeypatch.setitem(attncc._HOMES, "sample", "attncc.sample")
    attncc.sample = ModuleType("attncc.sample")
    assert "sample" not in vars(attncc)


def test_the_reference_stays_a_function():
    assert run("-c", "import attncc.reference; print(callable(attncc.reference))") == "True\n"

"""The floors of the house: which room may import which, and which libraries each may know.

A room is a module or a package directly inside `attncc/`. Every import statement counts, also inside functions, below
`if TYPE_CHECKING` and as the literal argument of `import_module`.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "attncc"

# A room imports from the floors below its own.
FLOORS = {
    9: ("__init__", "__main__"),
    8: ("commands", "integrations"),
    7: ("flex", "measure"),
    6: ("api",),
    5: ("pipeline", "runtime", "reference", "report", "variants"),
    4: ("emit",),
    3: ("schedule",),
    2: ("frontend", "passes", "analysis"),
    1: ("ir",),
    0: ("errors", "source", "config", "resources"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# The libraries that a room may import beside the standard library; a room that is not here imports none.
LIBRARIES = {
    "frontend": {"lark", "torch"},
    "emit": {"jinja2"},
    "runtime": {"torch", "triton", "numpy", "platformdirs", "filelock", "safetensors"},
    "reference": {"torch", "numpy"},
    "report": {"rich", "matplotlib", "numpy"},
    "variants": {"torch", "numpy"},
    "api": {"torch", "numpy"},
    "flex": {"torch", "numpy"},
    "measure": {"torch", "triton", "flash_attn"},
    "commands": {"typer", "rich", "torch", "numpy", "safetensors"},
    "integrations": {"torch", "numpy", "transformers"},
}

# An import inside a function has its reason in a comment beside or above it, except in rooms where one reason holds
# for all.
LATE_ROOMS = {
    "__init__": "it imports nothing until a name is used",
    "commands": "`attncc --help` imports only the command line",
}

# Files other than config.py that may name the process's environment, each with its reason.
ENVIRONMENT_READERS: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One imported module: in which file and line, and whether inside a function."""

    path: Path
    line: int
    module: str
    late: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{self.line}"


@cache
def modules() -> dict[str, Path]:
    """Every module of attncc by its dotted name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["attncc", *path.relative_to(PACKAGE).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def room_of_path(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def room_of(module: str) -> str:
    """The room of a dotted name inside attncc; the package itself is the room `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All imports of a file."""
    found: list[Import] = []
    _collect(ast.parse(path.read_text(encoding="utf-8")), path, False, found)
    return tuple(found)


def _collect(node: ast.AST, path: Path, late: bool, found: list[Import]) -> None:
    for child in ast.iter_child_nodes(node):
        found += [Import(path, child.lineno, name, late) for name in _imported(child, path)]
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        _collect(child, path, late or inside, found)


def _imported(node: ast.AST, path: Path) -> list[str]:
    """The dotted names that one node imports."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = _absolute(node, path)
            return [_module_or_name(base, alias.name) for alias in node.names]
        case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
            return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = ["attncc", *path.relative_to(PACKAGE).parent.parts]
    return ".".join([*parts[: len(parts) + 1 - node.level], *([node.module] if node.module else [])])


def _module_or_name(base: str, name: str) -> str:
    """`from attncc import ir` imports the module attncc.ir; `from attncc.ir import Expr` the module attncc.ir."""
    return f"{base}.{name}" if f"{base}.{name}" in modules() or (base, name) == ("attncc", "__version__") else base


def own(module: str) -> bool:
    return module.split(".")[0] == "attncc"


def all_imports() -> list[Import]:
    return [found for path in modules().values() for found in imports(path)]


def report(rule: str, offences: list[str]) -> None:
    if offences:
        pytest.fail("\n".join([rule, *(f"  {offence}" for offence in offences)]), pytrace=False)


def test_every_room_has_a_floor():
    homeless = sorted({room_of_path(path) for path in modules().values()} - FLOOR_OF.keys())
    report("each room of attncc/ needs a floor in FLOORS; these have none:", homeless)


def test_the_documentation_has_the_same_floors():
    page = (PACKAGE.parent / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", page, re.MULTILINE)
    found = {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    assert found == {floor: set(rooms) for floor, rooms in FLOORS.items() if floor < 9}


def test_rooms_import_only_from_floors_below():
    offences = []
    for found in all_imports():
        here, there = room_of_path(found.path), room_of(found.module)
        # The version is a constant of the package's face, which is loaded before any room.
        if not own(found.module) or here == there or found.module == "attncc.__version__":
            continue
        if FLOOR_OF.get(here, 0) == 0 == FLOOR_OF.get(there, -1):
            continue  # the ground floor may import its own, as long as there is no cycle
        if FLOOR_OF.get(there, 99) >= FLOOR_OF.get(here, 0):
            floors = f"floor {FLOOR_OF.get(here)} imports floor {FLOOR_OF.get(there)}"
            floors += "; the version alone: from attncc import __version__" if there == "__init__" else ""
            offences.append(f"{found}: {here} imports {found.module} ({floors})")
    report("a room imports only from floors below its own:", offences)


def test_no_import_cycle_inside_a_room_or_on_the_ground_floor():
    graph = {
        name: sorted({found.module for found in imports(path) if found.module in modules()} - {name})
        for name, path in modules().items()
        if name != "attncc"
    }
    cycle = find_cycle(graph)
    report("modules import each other in a circle:", [" -> ".join(cycle)] if cycle else [])


def find_cycle(graph: dict[str, list[str]]) -> list[str]:
    """One cycle of a graph as a list that ends where it begins; empty if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in graph.get(node, []):
            if cycle := visit(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in graph if (cycle := visit(node, []))), [])


def test_rooms_import_only_their_libraries():
    offences = []
    for found in all_imports():
        library, room = found.module.split(".")[0], room_of_path(found.path)
        if not own(found.module) and library not in sys.stdlib_module_names | LIBRARIES.get(room, set()):
            allowed = ", ".join(sorted(LIBRARIES.get(room, set()))) or "only the standard library"
            offences.append(f"{found}: {room} imports {library}; it may import {allowed}")
    report("each room knows only its own libraries (LIBRARIES):", offences)


def test_a_late_import_says_why():
    offences = []
    for found in all_imports():
        lines = found.path.read_text(encoding="utf-8").splitlines()
        beside = "#" in lines[found.line - 1] or lines[found.line - 2].strip().startswith("#")
        if found.late and not beside and room_of_path(found.path) not in LATE_ROOMS:
            offences.append(f"{found}: {found.module}")
    report("an import inside a function needs a comment, beside or above it, that says why:", offences)


def test_only_config_reads_the_environment():
    offences = []
    for path in modules().values():
        name = path.relative_to(PACKAGE).as_posix()
        if name != "config.py" and name not in ENVIRONMENT_READERS:
            offences += [f"attncc/{name}:{line}" for line in environment_uses(path.read_text(encoding="utf-8"))]
    report("only config.py reads environment variables (add a setting there, or a reason to the list here):", offences)


def environment_uses(text: str) -> list[int]:
    """The lines that name `os.environ`, `os.getenv` or their parts."""
    names = {"environ", "environb", "getenv", "putenv"}
    uses = []
    for node in ast.walk(ast.parse(text)):
        attribute = isinstance(node, ast.Attribute) and node.attr in names
        imported = isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names}
        uses += [node.lineno] if attribute or imported else []
    return sorted(uses)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch.nn", [("torch.nn", False)]),
        ("def f():\n    from attncc.ir import Expr", [("attncc.ir", True)]),
        ("from attncc import errors, __version__", [("attncc.errors", False), ("attncc.__version__", False)]),
        ("if TYPE_CHECKING:\n    import attncc", [("attncc", False)]),
        ("import importlib\nx = importlib.import_module('attncc.api')", [("importlib", False), ("attncc.api", False)]),
    ],
)
def test_every_form_of_import_is_seen(text, expected):
    found: list[Import] = []
    _collect(ast.parse(text), PACKAGE / "config.py", False, found)
    assert [(one.module, one.late) for one in found] == expected


def test_relative_imports_are_resolved():
    node = ast.parse("from ..errors import InputError").body[0]
    assert _imported(node, PACKAGE / "ir" / "expr.py") == ["attncc.errors"]
    node = ast.parse("from . import errors").body[0]
    assert _imported(node, PACKAGE / "config.py") == ["attncc.errors"]


def test_a_cycle_is_found():
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert find_cycle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_uses_of_the_environment_are_found():
    assert environment_uses("import os\nos.environ['A']\nos.getenv('B')\nfrom os import environ\n") == [2, 3, 4]

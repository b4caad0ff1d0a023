"""Functions fit on a screen, files can be read at one sitting, and both say what they are for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION = 40
MAX_FILE = 400

# What may be longer, as `file` or `file:function`, each with the reason why shorter would be worse.
ALLOWED: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files() -> list[Path]:
    return sorted((ROOT / "attncc").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function below a node with its dotted name; a function inside a function counts for itself as well."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, Function):
            yield prefix + child.name, child
        yield from functions(child, f"{prefix}{child.name}." if isinstance(child, Function | ast.ClassDef) else prefix)


def lines_of(node: Function) -> int:
    """From `def` to the last line, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def report(rule: str, offences: list[str]) -> None:
    if offences:
        pytest.fail("\n".join([rule, *(f"  {offence}" for offence in offences)]), pytrace=False)


def test_functions_fit_on_a_screen():
    offences = [
        f"{name(path)}:{node.lineno}: {function} has {lines_of(node)} lines"
        for path in python_files()
        for function, node in functions(parse(path))
        if lines_of(node) > MAX_FUNCTION and f"{name(path)}:{function}" not in ALLOWED
    ]
    report(f"a function has at most {MAX_FUNCTION} lines:", offences)


def test_files_can_be_read_at_one_sitting():
    files = [*python_files(), *sorted((ROOT / "templates").rglob("*.j2"))]
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    offences = [f"{file} has {n} lines" for file, n in lengths.items() if n > MAX_FILE and file not in ALLOWED]
    report(f"a file has at most {MAX_FILE} lines:", offences)


def test_every_exception_is_still_needed():
    longer = {name(path) for path in python_files() if len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE}
    for path in python_files():
        longer |= {
            f"{name(path)}:{function}" for function, node in functions(parse(path)) if lines_of(node) > MAX_FUNCTION
        }
    templates = {name(path) for path in (ROOT / "templates").rglob("*.j2")}
    report("these are no longer too long; take them out of ALLOWED:", sorted(ALLOWED.keys() - longer - templates))


def test_every_module_and_public_function_has_a_docstring():
    offences = []
    for path in python_files():
        tree = parse(path)
        offences += [f"{name(path)}:1: the module"] if ast.get_docstring(tree) is None else []
        for node in tree.body:
            public = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if public and not is_overload(node) and ast.get_docstring(node) is None:
                offences.append(f"{name(path)}:{node.lineno}: {node.name}")
    report("every module, and every public function and class in it, says what it is for:", offences)


def is_overload(node: Function | ast.ClassDef) -> bool:
    """Whether a function is only a signature for the type checker."""
    return any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)


def test_lines_are_counted_from_def_to_the_end():
    (outer, node), (inner, _) = functions(
        ast.parse("@decorator\ndef f():\n    def g():\n        pass\n\n    return g\n")
    )
    assert (outer, lines_of(node), inner) == ("f", 5, "f.g")

"""The text of generated Triton code as functions: checked to hold definitions only, then executed.

The text is registered with `linecache`, so that Triton can read the source of each function, tracebacks show its lines,
and a binary names no path of this machine. Whatever is not a definition is refused before anything runs.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import re
from functools import lru_cache
from typing import Any

from attncc.errors import InternalError

#: Decorators that only wrap a definition, by the last part of their names.
DECORATORS = frozenset({"jit", "constexpr_function", "aggregate", "builtin"})
FREE_IMPORTS = frozenset({"triton", "math"})


def file_name(name: str, text: str) -> str:
    """The name under which messages, tracebacks and profilers show a text; equal texts have equal names."""
    shown = re.sub(r"[^\w.-]+", "_", name) or "kernel"
    return f"attncc/{shown}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"


@lru_cache(maxsize=256)
def define(name: str, text: str) -> dict[str, Any]:
    """The names that a text defines. Raises InternalError if it holds anything but definitions."""
    path = file_name(name, text)
    try:
        tree = ast.parse(text, path)
    except SyntaxError as error:
        raise InternalError(f"the generated kernel is not Python: {error}") from error
    for node in tree.body:
        if not _is_definition(node):
            line = ast.unparse(node).split("\n")[0]
            raise InternalError(f"the generated kernel holds more than definitions: line {node.lineno}, {line}")
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    names: dict[str, Any] = {"__name__": path.removesuffix(".py").replace("/", "."), "__file__": path}
    exec(compile(tree, path, "exec"), names)
    return names


def _is_definition(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Import():
            return all(alias.name.split(".")[0] in FREE_IMPORTS for alias in node.names)
        case ast.ImportFrom(level=0):
            return (node.module or "").split(".")[0] in FREE_IMPORTS | {"__future__"}
        case ast.FunctionDef():
            return _is_function(node)
        case ast.ClassDef(bases=[], keywords=[]):
            return _is_decorated(node) and all(_is_member(member) for member in node.body)
        case ast.Assign(targets=[ast.Name()]):
            return _is_value(node.value)
        case ast.AnnAssign(target=ast.Name()):
            return _is_dotted(node.annotation) and (node.value is None or _is_value(node.value))
    return False


def _is_member(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AnnAssign | ast.Expr) and _is_definition(node)


def _is_function(node: ast.FunctionDef) -> bool:
    """A decorated function whose annotations and defaults, which Python evaluates at once, are names and literals."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    hints = [argument.annotation for argument in every] + [node.returns]
    defaults = [*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)]
    harmless = all(hint is None or _is_dotted(hint) for hint in hints) and all(_is_value(value) for value in defaults)
    return harmless and _is_decorated(node)


def _is_decorated(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return bool(node.decorator_list) and all(_is_decorator(decorator) for decorator in node.decorator_list)


def _is_decorator(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return not node.args and all(_is_value(word.value) for word in node.keywords) and _is_decorator(node.func)
    return _is_dotted(node) and ast.unparse(node).split(".")[-1] in DECORATORS


def _is_dotted(node: ast.expr) -> bool:
    match node:
        case ast.Name() | ast.Constant():
            return True
        case ast.Attribute():
            return _is_dotted(node.value)
    return False


def _is_value(node: ast.expr) -> bool:
    """A literal, a tuple of them, a name (`tl.float32`), or one of these as a `constexpr`."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            return isinstance(node.operand, ast.Constant)
        case ast.Tuple():
            return all(_is_value(element) for element in node.elts)
        case ast.Call(args=[value], keywords=[]):
            return ast.unparse(node.func) in (
                "tl.constexpr",
                "gl.constexpr",
                "triton.language.constexpr",
            ) and _is_value(value)
    return _is_dotted(node)

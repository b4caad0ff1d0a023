"""What to say when Python asks a traced value for a plain number or a truth value.

The construct that asked is found in the user's text, so that the hint names its replacement.
"""

from __future__ import annotations

import ast
from typing import Final

from attncc.frontend.places import construct
from attncc.source import Source, Span

Message = tuple[str, str | None, Span | None]

_PAIR: Final = "it has another value for every pair of a query and a key"
_CHOOSE: Final = "choose between values with `torch.where(condition, a, b)`"
_INSTEAD: Final = {
    "min": "`torch.minimum(a, b)`, or `x.clamp(max=…)` with a number",
    "max": "`torch.maximum(a, b)`, or `x.clamp(min=…)` with a number",
    "any": "`a | b`",
    "all": "`a & b`",
    "bool": "`x != 0`",
    "int": "`x.int()`",
    "float": "`x.float()`",
    "round": "`torch.round(x)`",
    "pow": "`torch.pow(x, y)`",
    "sorted": "`torch.minimum` and `torch.maximum`",
}
_TORCH_OF_MATH: Final = {"fabs": "abs", "pow": "pow", "isclose": "isclose", "gamma": "special.gamma", "ceil": "ceil"}


def truth(span: Span | None) -> Message:
    """Why a traced value has no truth value, said for the construct that asked for it."""
    found = construct(span)
    if found is None:
        hint = "use `&`, `|`, `~` on conditions, torch.where to choose, torch.minimum and torch.maximum"
        return f"a traced value cannot be true or false: {_PAIR}", hint, span
    node, parent, _ = found
    source = found[2].source
    for candidate in (node, parent):
        said = _truth_of(candidate, node, source)
        if said is not None:
            message, hint, whole = said
            return message, hint, _span(source, whole) or span
    return f"a traced value cannot be true or false: {_PAIR}", _CHOOSE, span


def asked(span: Span | None) -> Span | None:
    """The condition that was asked for its truth: Python 3.11 says the whole of `a if c else b`, later ones `c`."""
    found = construct(span)
    if found is not None and isinstance(found[0], ast.IfExp):
        return _span(found[2].source, found[0].test) or span
    return span


def _truth_of(candidate: ast.AST | None, node: ast.AST, source: Source) -> tuple[str, str, ast.AST] | None:
    match candidate:
        case ast.Compare(ops=[ast.In() | ast.NotIn(), *_]):
            return f"`in` needs plain values, but {_PAIR}", "compare with each: `(x == 1) | (x == 2)`", candidate
        case ast.Compare(ops=[_, _, *_]):
            return (
                "a chained comparison joins its parts with `and`, which needs one answer",
                _unchained(candidate, source),
                candidate,
            )
        case ast.BoolOp():
            word, sign = ("and", "&") if isinstance(candidate.op, ast.And) else ("or", "|")
            parts = f" {sign} ".join(f"({_text(each, source)})" for each in candidate.values)
            return f"`{word}` needs one answer, but {_PAIR}", f"write `{parts}`", candidate
        case ast.UnaryOp(op=ast.Not()):
            return f"`not` needs one answer, but {_PAIR}", f"write `~({_text(candidate.operand, source)})`", candidate
        case ast.If() | ast.IfExp() | ast.While() | ast.Assert():
            words = {ast.If: "if", ast.IfExp: "if", ast.While: "while", ast.Assert: "assert"}
            word = words[type(candidate)]
            return f"`{word}` needs one answer, but {_PAIR}", _choice(candidate, source), node
        case ast.comprehension():
            return f"`if` needs one answer, but {_PAIR}", _CHOOSE, node
        case ast.Call():
            name = _text(candidate.func, source)
            instead = _INSTEAD.get(name)
            return f"`{name}` needs plain values, but {_PAIR}", f"use {instead}" if instead else _CHOOSE, candidate
    return None


def _choice(candidate: ast.AST, source: Source) -> str:
    if isinstance(candidate, ast.IfExp):
        parts = (_text(each, source) for each in (candidate.test, candidate.body, candidate.orelse))
        return f"write `torch.where({', '.join(parts)})`"
    if isinstance(candidate, ast.Assert):
        return "check the arguments before the call"
    return _CHOOSE


def _unchained(chain: ast.Compare, source: Source) -> str:
    signs = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
    sides = [_text(each, source) for each in (chain.left, *chain.comparators)]
    words = [signs.get(type(op), "==") for op in chain.ops]
    parts = (f"({left} {word} {right})" for left, word, right in zip(sides, words, sides[1:], strict=False))
    return f"write `{' & '.join(parts)}`"


def conversion(name: str, span: Span | None) -> Message:
    """Why a traced value gives no plain number, said for the function that asked for it."""
    found = construct(span)
    if found is not None:
        source = found[2].source
        for candidate in found[:2]:
            if isinstance(candidate, ast.Call):
                called = _text(candidate.func, source)
                return (
                    f"`{called}` needs a plain number, but {_PAIR}",
                    _instead(called),
                    _span(source, candidate) or span,
                )
            if isinstance(candidate, ast.Subscript):
                hint = "index a tensor: `torch.tensor(values)[q_idx]`, made before the call"
                return f"a Python list is indexed with plain numbers, but {_PAIR}", hint, span
    wanted = {"__int__": "int", "__float__": "float", "__index__": "int", "__bool__": "bool"}.get(name, name)
    return f"`{wanted}` needs a plain number, but {_PAIR}", _instead(wanted), span


def _instead(called: str) -> str:
    module, _, name = called.rpartition(".")
    if module in ("math", "np", "numpy", "cmath"):
        return f"use `torch.{_TORCH_OF_MATH.get(name, name)}(x)`"
    if name in ("item", "tolist", "numpy"):
        return "compute with the tensor itself"
    if name == "range":
        return "the number of turns of a loop has to be a plain number"
    return f"use {_INSTEAD[name]}" if name in _INSTEAD else "use torch functions, which take traced values"


def _text(node: ast.AST, source: Source) -> str:
    found = ast.get_source_segment(source.text, node)
    return " ".join(found.split()) if found is not None else "…"


def _span(source: Source, node: ast.AST) -> Span | None:
    """The span of a node of the syntax."""
    first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    if first is None or last is None:
        return None
    lines = source.text.splitlines(keepends=True)
    start = _offset(lines, first, getattr(node, "col_offset", 0))
    return Span(source, start, _offset(lines, last, getattr(node, "end_col_offset", 0)))


def _offset(lines: list[str], line: int, column: int) -> int:
    """The character offset of a line, from 1, and a column in UTF-8 bytes."""
    before = sum(map(len, lines[: line - 1]))
    return before + len(lines[line - 1].encode()[:column].decode(errors="ignore"))

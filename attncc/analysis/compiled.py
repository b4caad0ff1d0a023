"""An expression as a Python function of numbers, for work on the host: counting tiles, searching witnesses.

It means what `attncc.ir.evaluate` means, about twenty times as fast where the same expression is wanted often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attncc.ir import FALSE, TRUE, Expr, Op, Scalar, const, postorder, with_args
from attncc.ir.evaluate import EVALUATE, round_to

_INFIX: Final = {
    Op.ADD: "+",
    Op.SUB: "-",
    Op.MUL: "*",
    Op.LT: "<",
    Op.LE: "<=",
    Op.GT: ">",
    Op.GE: ">=",
    Op.EQ: "==",
    Op.NE: "!=",
    Op.AND: "and",
    Op.OR: "or",
    Op.XOR: "!=",
}
_INDEX_INFIX: Final = {Op.FLOORDIV: "//", Op.MOD: "%"}
_INDEX_CALL: Final = {Op.MIN: "min", Op.MAX: "max"}


def function_of(roots: Sequence[Expr], names: Sequence[str]) -> Callable[..., tuple[Any, ...]]:
    """The values of the roots as a function of inputs and parameters, in the order of `names`, and of `load`, which
    reads captured tensors: f(*values, load=None)."""
    scope: dict[str, Any] = {"round_to": round_to}
    place: dict[Expr, str] = {}
    arguments = {name: f"a{i}" for i, name in enumerate(names)}
    lines = [f"def f({''.join(a + ', ' for a in arguments.values())}load=None):"]
    for i, expr in enumerate(postorder(*roots)):
        if expr.op in (Op.INPUT, Op.PARAM):
            place[expr] = arguments[str(expr.value)]
            continue
        if expr.op is Op.CONST and not isinstance(expr.value, float):
            place[expr] = f"({expr.value!r})"
            continue
        place[expr] = f"v{i}"
        lines.append(f"    v{i} = {spelled(expr, [place[arg] for arg in expr.args], i, scope)}")
    lines.append(f"    return ({''.join(place[root] + ', ' for root in roots)})")
    exec(compile("\n".join(lines), "<expression>", "exec"), scope)
    made: Callable[..., tuple[Any, ...]] = scope["f"]
    return made


def spelled(expr: Expr, args: list[str], number: int, scope: dict[str, Any]) -> str:
    """One operation as Python. Names in it are v, a and c with a number, so that no text of a user gets in."""
    is_index = expr.scalar is Scalar.INDEX
    match expr.op:
        case Op.CONST:
            scope[f"c{number}"] = expr.value
            return f"c{number}"
        case Op.LOAD:
            scope[f"c{number}"] = str(expr.value)
            return f"load(c{number}, ({''.join(arg + ', ' for arg in args)}))"
        case Op.CAST:
            return f"{'float' if expr.scalar is Scalar.FLOAT else 'int'}({args[0]})"
        case Op.NARROW:
            return f"round_to({str(expr.value)!r}, {args[0]})"
        case Op.NOT:
            return f"not {args[0]}"
        case Op.NEG:
            return f"-{args[0]}"
        case Op.WHERE:
            return f"{args[1]} if {args[0]} else {args[2]}"
        case op if op in _INFIX:
            return f"{args[0]} {_INFIX[op]} {args[1]}"
        case op if is_index and op in _INDEX_INFIX:
            return f"{args[0]} {_INDEX_INFIX[op]} {args[1]}"
        case op if is_index and op in _INDEX_CALL:
            return f"{_INDEX_CALL[op]}({args[0]}, {args[1]})"
        case _:
            scope[f"c{number}"] = EVALUATE[expr.op]
            return f"c{number}({', '.join(args)})"


def settled(root: Expr, values: Mapping[str, int]) -> Expr:
    """The expression with numbers for inputs and parameters, folded; what has no value stays as it is."""
    done: dict[Expr, Expr] = {}
    for expr in postorder(root):
        if expr.op in (Op.INPUT, Op.PARAM) and str(expr.value) in values:
            done[expr] = const(int(values[str(expr.value)]))
        else:
            done[expr] = _folded(expr, tuple(done[arg] for arg in expr.args))
    return done[root]


def _folded(expr: Expr, args: tuple[Expr, ...]) -> Expr:
    """The operation on simpler operands, as far as constants decide it."""
    if expr.op in _DECIDED:
        decides, rest = _DECIDED[expr.op]
        if decides in args:
            return decides
        left = [arg for arg in args if arg is not rest]
        return with_args(expr, args) if len(left) == len(args) else left[0] if left else rest
    if expr.op is Op.WHERE and args[0].op is Op.CONST:
        return args[1] if args[0].value else args[2]
    if args and expr.op in EVALUATE and all(arg.op is Op.CONST for arg in args):
        try:
            return const(EVALUATE[expr.op](*(arg.value for arg in args)))
        except ArithmeticError:
            pass
    return with_args(expr, args)


_DECIDED: Final = {Op.AND: (FALSE, TRUE), Op.OR: (TRUE, FALSE)}


def names_of(*roots: Expr) -> tuple[str, ...]:
    """The inputs and parameters that the roots read, in the order of their first use."""
    found = [str(e.value) for e in postorder(*roots) if e.op in (Op.INPUT, Op.PARAM)]
    return tuple(dict.fromkeys(found))

"""How each back end writes each operation: one `Spelling` per language of kernels.

The printer knows dependence, names and order; these tables know the words. A row is a `Form`: a format string of the
operands, how tightly it holds together, and which operands cannot be bare numbers. Rows are keyed by operation, or by
operation and the kind of its last operand where Index and Float are written differently. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from attncc.ir import Op, Scalar
from attncc.ir.syntax import Level

LOOSEST: Final = Level.OR


@dataclass(frozen=True, slots=True)
class Form:
    """How one operation is written. `operands` are the least levels that stand without parentheses (default: any).

    Operands at the positions `always` must be tensors; among those at `tensors` at least one must be.
    """

    text: str
    level: Level = Level.ATOM
    operands: tuple[Level, ...] = ()
    tensors: tuple[int, ...] = ()
    always: tuple[int, ...] = ()

    def least(self, position: int) -> Level:
        """The least level of the operand at this position."""
        return self.operands[position] if position < len(self.operands) else LOOSEST


Forms = Mapping[Op | tuple[Op, Scalar], Form]


@dataclass(frozen=True, slots=True)
class Spelling:
    """The words of one language of kernels.

    `casts` is keyed by (from, to), `narrow` by dtype. `in_place` writes an operation over its first operand; `{0}` is
    the operand's name. `load` takes the capture's name and the texts of its indices, `tensor` a number.
    """

    name: str
    forms: Forms
    casts: Mapping[tuple[Scalar, Scalar], Form]
    narrow: Mapping[str, Form]
    number: Callable[[bool | int | float], str]
    tensor: Callable[[bool | int | float], str]
    in_place: Mapping[Op, Form] = field(default_factory=dict)

    def form(self, op: Op, scalar: Scalar) -> Form:
        """The row of an operation whose last operand is of this kind."""
        return self.forms.get((op, scalar)) or self.forms[op]


def binary(symbol: str, level: Level) -> Form:
    """An operator that groups to the left."""
    return Form(f"{{0}} {symbol} {{1}}", level, (level, Level(level + 1)), tensors=(0, 1))


def compare(symbol: str) -> Form:
    """A comparison; it never stands beside another without parentheses."""
    return Form(f"{{0}} {symbol} {{1}}", Level.COMPARISON, (Level.BIT_OR, Level.BIT_OR), tensors=(0, 1))


def call(name: str) -> Form:
    """A function of one tensor."""
    return Form(f"{name}({{0}})", always=(0,))


def method(text: str) -> Form:
    """A method of the first operand."""
    return Form(f"{{0}}{text}", operands=(Level.ATOM,), always=(0,))


def _torch_number(value: bool | int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "float('nan')" if math.isnan(value) else "NEG_INF" if value < 0 else "-NEG_INF"
    return repr(value)


def _torch_tensor(value: bool | int | float) -> str:
    dtype = {bool: "torch.bool", int: "torch.int64", float: "FLOAT"}[type(value)]
    return f"torch.tensor({_torch_number(value)}, dtype={dtype})"


#: Operations that torch writes alike for Index and Float, and as functions of one tensor.
_TORCH_FUNCTIONS: Final = (
    *(Op.EXP, Op.EXP2, Op.EXPM1, Op.LOG, Op.LOG2, Op.LOG1P, Op.SQRT, Op.RSQRT, Op.TANH, Op.SIGMOID),
    *(Op.SIN, Op.COS, Op.ATAN, Op.ERF, Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC, Op.ABS),
)

TORCH_FORMS: Final[Forms] = {
    Op.ADD: binary("+", Level.SUM),
    Op.SUB: binary("-", Level.SUM),
    Op.MUL: binary("*", Level.PRODUCT),
    Op.DIV: binary("/", Level.PRODUCT),
    Op.FLOORDIV: binary("//", Level.PRODUCT),  # torch rounds down, for ints and floats
    Op.MOD: binary("%", Level.PRODUCT),  # torch's remainder has the sign of the divisor
    Op.POW: Form("{0} ** {1}", Level.POWER, (Level.ATOM, Level.UNARY), tensors=(0, 1)),
    Op.NEG: Form("-{0}", Level.UNARY, (Level.UNARY,), always=(0,)),
    Op.MIN: Form("torch.minimum({0}, {1})", always=(0, 1)),  # NaN where either is NaN
    Op.MAX: Form("torch.maximum({0}, {1})", always=(0, 1)),
    **{op: call(f"torch.{op.value}") for op in _TORCH_FUNCTIONS},
    Op.BIT_AND: binary("&", Level.BIT_AND),
    Op.BIT_OR: binary("|", Level.BIT_OR),
    Op.BIT_XOR: binary("^", Level.BIT_XOR),
    Op.SHIFT_LEFT: binary("<<", Level.SHIFT),
    Op.SHIFT_RIGHT: binary(">>", Level.SHIFT),
    Op.LT: compare("<"),
    Op.LE: compare("<="),
    Op.GT: compare(">"),
    Op.GE: compare(">="),
    Op.EQ: compare("=="),
    Op.NE: compare("!="),
    Op.AND: binary("&", Level.BIT_AND),
    Op.OR: binary("|", Level.BIT_OR),
    Op.XOR: binary("^", Level.BIT_XOR),
    Op.NOT: Form("~{0}", Level.UNARY, (Level.UNARY,), always=(0,)),
    Op.WHERE: Form("torch.where({0}, {1}, {2})", tensors=(1, 2), always=(0,)),
}

#: What torch can write over its first operand, which saves a pass through memory for each operation on a score tile.
_TORCH_IN_PLACE: Final = {
    **{op: Form(f"{{0}}.{op.value}_({{1}})") for op in (Op.ADD, Op.SUB, Op.MUL, Op.DIV)},
    Op.NEG: Form("{0}.neg_()"),
    **{op: Form(f"{{0}}.{op.value}_()") for op in _TORCH_FUNCTIONS},
}

TORCH: Final = Spelling(
    name="torch",
    forms=TORCH_FORMS,
    casts={
        (Scalar.BOOL, Scalar.INDEX): method(".to(torch.int64)"),
        (Scalar.BOOL, Scalar.FLOAT): method(".to(FLOAT)"),
        (Scalar.INDEX, Scalar.FLOAT): method(".to(FLOAT)"),
        (Scalar.FLOAT, Scalar.INDEX): method(".to(torch.int64)"),  # truncates
    },
    narrow={
        "bfloat16": method(".to(torch.bfloat16).to(FLOAT)"),
        "float16": method(".to(torch.float16).to(FLOAT)"),
    },
    number=_torch_number,
    tensor=_torch_tensor,
    in_place=_TORCH_IN_PLACE,
)

"""Making typed expressions: promotion, conversion, and refusal of what has no meaning.

`apply` is the one door through which front ends and passes make operations. It follows torch: Bool < Index < Float,
a Bool counts as 0 or 1 beside a number, `/` and the transcendental functions give Floats. It raises `LanguageError`
without a place; the caller knows where the user wrote it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from attncc.errors import LanguageError
from attncc.ir.evaluate import EVALUATE, round_to
from attncc.ir.expr import FALSE, TRUE, Expr, Op, Scalar, const, node

INT64_MAX: Final = 2**63 - 1
MAX_BITS: Final = 63
NARROW_DTYPES: Final = ("bfloat16", "float16")
AS_A_FLOAT: Final = "compute with floats, as in `2.0`, or with smaller numbers"


class Rule(enum.Enum):
    """How an operation treats the kinds of its operands."""

    LEAF = "made by its own function"
    NUMBER = "operands of one kind, Index or Float, which is the result's"
    FLOAT = "Float operands, Float result"
    ROUNDING = "Float to Float; the identity on an Index"
    POWER = "Float, or an Index to a constant power of at least 0"
    BITS = "Index operands, Index result"
    ORDER = "operands of one kind, Index or Float, Bool result"
    EQUALITY = "operands of one kind, Bool result"
    LOGIC = "Bool operands, Bool result"
    WHERE = "a Bool, then two operands of one kind, which is the result's"
    CONVERSION = "one operand, the kind asked for"


@dataclass(frozen=True, slots=True)
class OpRow:
    """One row of `OPS`: the number of operands (None: any), and the rule of their kinds."""

    arity: int | None
    rule: Rule


OPS: Final[dict[Op, OpRow]] = {
    Op.CONST: OpRow(0, Rule.LEAF),
    Op.INPUT: OpRow(0, Rule.LEAF),
    Op.PARAM: OpRow(0, Rule.LEAF),
    Op.LOAD: OpRow(None, Rule.LEAF),
    Op.ADD: OpRow(2, Rule.NUMBER),
    Op.SUB: OpRow(2, Rule.NUMBER),
    Op.MUL: OpRow(2, Rule.NUMBER),
    Op.DIV: OpRow(2, Rule.FLOAT),
    Op.FLOORDIV: OpRow(2, Rule.NUMBER),
    Op.MOD: OpRow(2, Rule.NUMBER),
    Op.POW: OpRow(2, Rule.POWER),
    Op.NEG: OpRow(1, Rule.NUMBER),
    Op.ABS: OpRow(1, Rule.NUMBER),
    Op.MIN: OpRow(2, Rule.NUMBER),
    Op.MAX: OpRow(2, Rule.NUMBER),
    Op.BIT_AND: OpRow(2, Rule.BITS),
    Op.BIT_OR: OpRow(2, Rule.BITS),
    Op.BIT_XOR: OpRow(2, Rule.BITS),
    Op.SHIFT_LEFT: OpRow(2, Rule.BITS),
    Op.SHIFT_RIGHT: OpRow(2, Rule.BITS),
    Op.EXP: OpRow(1, Rule.FLOAT),
    Op.EXP2: OpRow(1, Rule.FLOAT),
    Op.EXPM1: OpRow(1, Rule.FLOAT),
    Op.LOG: OpRow(1, Rule.FLOAT),
    Op.LOG2: OpRow(1, Rule.FLOAT),
    Op.LOG1P: OpRow(1, Rule.FLOAT),
    Op.SQRT: OpRow(1, Rule.FLOAT),
    Op.RSQRT: OpRow(1, Rule.FLOAT),
    Op.TANH: OpRow(1, Rule.FLOAT),
    Op.SIGMOID: OpRow(1, Rule.FLOAT),
    Op.SIN: OpRow(1, Rule.FLOAT),
    Op.COS: OpRow(1, Rule.FLOAT),
    Op.ATAN: OpRow(1, Rule.FLOAT),
    Op.ERF: OpRow(1, Rule.FLOAT),
    Op.FLOOR: OpRow(1, Rule.ROUNDING),
    Op.CEIL: OpRow(1, Rule.ROUNDING),
    Op.ROUND: OpRow(1, Rule.ROUNDING),
    Op.TRUNC: OpRow(1, Rule.ROUNDING),
    Op.LT: OpRow(2, Rule.ORDER),
    Op.LE: OpRow(2, Rule.ORDER),
    Op.GT: OpRow(2, Rule.ORDER),
    Op.GE: OpRow(2, Rule.ORDER),
    Op.EQ: OpRow(2, Rule.EQUALITY),
    Op.NE: OpRow(2, Rule.EQUALITY),
    Op.AND: OpRow(2, Rule.LOGIC),
    Op.OR: OpRow(2, Rule.LOGIC),
    Op.XOR: OpRow(2, Rule.LOGIC),
    Op.NOT: OpRow(1, Rule.LOGIC),
    Op.WHERE: OpRow(3, Rule.WHERE),
    Op.CAST: OpRow(1, Rule.CONVERSION),
    Op.NARROW: OpRow(1, Rule.CONVERSION),
}

#: What arithmetic means between two Bools, as in torch.
BOOL_ARITHMETIC: Final = {Op.ADD: Op.OR, Op.MUL: Op.AND, Op.MIN: Op.AND, Op.MAX: Op.OR}
#: `&`, `|` and `^` of Index operands.
BIT_LOGIC: Final = {Op.AND: Op.BIT_AND, Op.OR: Op.BIT_OR, Op.XOR: Op.BIT_XOR}
SHIFTS: Final = (Op.SHIFT_LEFT, Op.SHIFT_RIGHT)


def apply(op: Op, *operands: Expr) -> Expr:
    """The operation on operands of any kinds; constants fold. LanguageError where torch, too, sees no meaning."""
    row = OPS[op]
    if row.arity != len(operands):
        raise LanguageError(f"`{op.value}` takes {row.arity} operands, not {len(operands)}")
    return _fold(_RULES[row.rule](op, operands))


def cast(operand: Expr, scalar: Scalar) -> Expr:
    """The operand as another kind: to Bool `!= 0`, from Float to Index truncated."""
    if operand.scalar is scalar:
        return operand
    if scalar is Scalar.BOOL:
        return apply(Op.NE, operand, const(0))
    return _fold(node(Op.CAST, (operand,), None, scalar))


def narrow(operand: Expr, dtype: str) -> Expr:
    """The operand as a Float rounded to `bfloat16` or `float16`; its gradient passes through."""
    if dtype not in NARROW_DTYPES:
        raise LanguageError(f"a score cannot be rounded to {dtype}", hint=f"one of {', '.join(NARROW_DTYPES)}")
    return _fold(node(Op.NARROW, (cast(operand, Scalar.FLOAT),), dtype, Scalar.FLOAT))


def conjunction(*terms: Expr) -> Expr:
    """All of the Bool terms; True for none."""
    result = TRUE
    for term in terms:
        result = term if result is TRUE else result if term is TRUE else apply(Op.AND, result, term)
    return result


def disjunction(*terms: Expr) -> Expr:
    """Any of the Bool terms; False for none."""
    result = FALSE
    for term in terms:
        result = term if result is FALSE else result if term is FALSE else apply(Op.OR, result, term)
    return result


def _common(operands: tuple[Expr, ...], least: Scalar = Scalar.BOOL) -> tuple[Expr, ...]:
    kind = max(least, *(e.scalar for e in operands))
    return tuple(cast(e, kind) for e in operands)


def _number(op: Op, operands: tuple[Expr, ...]) -> Expr:
    if all(e.scalar is Scalar.BOOL for e in operands):
        if op not in BOOL_ARITHMETIC:
            hint = "use `^` (exclusive or) or `& ~`" if op is Op.SUB else "convert it to a number first"
            raise LanguageError(f"`{op.value}` is not defined on bools", hint=hint)
        return node(BOOL_ARITHMETIC[op], operands, None, Scalar.BOOL)
    fitted = _common(operands, Scalar.INDEX)
    if op in (Op.FLOORDIV, Op.MOD) and fitted[1] is const(0):
        symbol = "//" if op is Op.FLOORDIV else "%"
        raise LanguageError(f"`{symbol}` by zero", hint="the divisor must be another number")
    return node(op, fitted, None, fitted[0].scalar)


def _float(op: Op, operands: tuple[Expr, ...]) -> Expr:
    return node(op, _common(operands, Scalar.FLOAT), None, Scalar.FLOAT)


def _rounding(op: Op, operands: tuple[Expr, ...]) -> Expr:
    (operand,) = _common(operands, Scalar.INDEX)
    return operand if operand.scalar is Scalar.INDEX else node(op, (operand,), None, Scalar.FLOAT)


def _power(op: Op, operands: tuple[Expr, ...]) -> Expr:
    base, exponent = _common(operands, Scalar.INDEX)
    if base.scalar is Scalar.INDEX and not (exponent.op is Op.CONST and _int(exponent) >= 0):
        hint = "convert the base to a float: `float(base) ** exponent`, or `base.float() ** exponent` in Python"
        raise LanguageError("an int can only be raised to a constant int of at least 0", hint=hint)
    if base.scalar is Scalar.INDEX and _int(exponent) > MAX_BITS:
        raise LanguageError(f"the power {_int(exponent)} of an int does not fit in 64 bits", hint=AS_A_FLOAT)
    return node(op, (base, exponent), None, base.scalar)


def _bits(op: Op, operands: tuple[Expr, ...]) -> Expr:
    if any(e.scalar is Scalar.FLOAT for e in operands):
        raise LanguageError(f"`{op.value}` is defined on ints, not on floats", hint="convert the float to an int")
    left, right = _common(operands, Scalar.INDEX)
    if op in SHIFTS and not (right.op is Op.CONST and 0 <= _int(right) <= MAX_BITS):
        hint = "capture a tensor of powers of 2, index it, and multiply or divide by it with `//`"
        raise LanguageError("an int can only be shifted by a constant from 0 to 63", hint=hint)
    return node(op, (left, right), None, Scalar.INDEX)


def _order(op: Op, operands: tuple[Expr, ...]) -> Expr:
    return node(op, _common(operands, Scalar.INDEX), None, Scalar.BOOL)


def _equality(op: Op, operands: tuple[Expr, ...]) -> Expr:
    return node(op, _common(operands), None, Scalar.BOOL)


def _logic(op: Op, operands: tuple[Expr, ...]) -> Expr:
    if any(e.scalar is Scalar.FLOAT for e in operands):
        hint = "compare it with something first, as in `score > 0`"
        raise LanguageError(f"`{op.value}` needs bools, but an operand is a float", hint=hint)
    if all(e.scalar is Scalar.BOOL for e in operands):
        return node(op, operands, None, Scalar.BOOL)
    if op is Op.NOT:  # ~x == -1 - x
        return apply(Op.SUB, const(-1), operands[0])
    return apply(BIT_LOGIC[op], *operands)


def _where(op: Op, operands: tuple[Expr, ...]) -> Expr:
    condition, *branches = operands
    if condition.scalar is not Scalar.BOOL:
        message = f"the condition of `where` must be a bool, but this is {_a(condition.scalar)}"
        raise LanguageError(message, hint="compare it with something, as in `x > 0`")
    fitted = _common(tuple(branches))
    return node(op, (condition, *fitted), None, fitted[0].scalar)


def _refuse(op: Op, operands: tuple[Expr, ...]) -> Expr:
    raise LanguageError(f"`{op.value}` is not made by apply")


_RULES: Final = {
    Rule.LEAF: _refuse,
    Rule.CONVERSION: _refuse,
    Rule.NUMBER: _number,
    Rule.FLOAT: _float,
    Rule.ROUNDING: _rounding,
    Rule.POWER: _power,
    Rule.BITS: _bits,
    Rule.ORDER: _order,
    Rule.EQUALITY: _equality,
    Rule.LOGIC: _logic,
    Rule.WHERE: _where,
}


def _fold(expr: Expr) -> Expr:
    """The constant that an operation on constants gives; Index results must stay within 64 bits."""
    if not expr.args or any(arg.op is not Op.CONST for arg in expr.args):
        return expr
    values = [arg.value for arg in expr.args]
    if expr.op is Op.CAST:
        return _folded_cast(expr)
    if expr.op is Op.NARROW:
        return const(round_to(str(expr.value), _float_of(expr.args[0])))
    result = EVALUATE[expr.op](*values)
    if expr.scalar is Scalar.INDEX and not -INT64_MAX - 1 <= result <= INT64_MAX:
        raise LanguageError(f"the constant {result} does not fit in 64 bits", hint=AS_A_FLOAT)
    return const(result)


def _folded_cast(expr: Expr) -> Expr:
    value = expr.args[0].value
    if expr.scalar is Scalar.FLOAT:
        return const(float(value))  # type: ignore[arg-type]  # a constant's value is a number
    number = _float_of(expr.args[0])
    if number != number or abs(number) > INT64_MAX:
        raise LanguageError(f"{number} cannot become an int", hint="ints have 64 bits; compare with the float itself")
    return const(int(number))


def _int(expr: Expr) -> int:
    assert isinstance(expr.value, int)
    return expr.value


def _float_of(expr: Expr) -> float:
    assert isinstance(expr.value, bool | int | float)
    return float(expr.value)


def _a(scalar: Scalar) -> str:
    return f"an {scalar}" if scalar is Scalar.INDEX else f"a {scalar}"

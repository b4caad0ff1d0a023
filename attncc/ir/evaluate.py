"""What each operation computes, on Python numbers.

This table gives constant folding its meaning and the tests their second opinion. Floats are IEEE doubles throughout:
nothing raises, a division by zero gives an infinity or NaN as it does on the devices. Index operations are exact.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from attncc.ir.expr import Expr, Op, Scalar, postorder

Number = bool | int | float
Loader = Callable[[str, tuple[int, ...]], Number]


def divide(a: float, b: float) -> float:
    """True division after IEEE 754."""
    if b != 0.0:
        return a / b
    return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def floor_divide(a: Any, b: Any) -> Any:
    """Division rounded towards minus infinity; Floats as torch: by zero like `/`."""
    if isinstance(a, int):
        return a // b
    if b == 0.0:
        return divide(a, b)
    if math.isinf(a) or math.isnan(a) or math.isnan(b):
        return math.nan
    return float(a // b)


def modulo(a: Any, b: Any) -> Any:
    """The remainder with the sign of the divisor."""
    if isinstance(a, int):
        return a % b
    return math.nan if b == 0.0 or math.isinf(a) else a % b


def power(a: Any, b: Any) -> Any:
    """Power; a negative base with a fractional exponent gives NaN."""
    if isinstance(a, int):
        return a**b
    try:
        result = math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        return _power_at_pole(a, b)
    return result


def _power_at_pole(a: float, b: float) -> float:
    if a != 0.0:
        return math.nan
    return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


def minimum(a: Any, b: Any) -> Any:
    """The smaller; NaN where either is NaN."""
    return a + b if a != a or b != b else min(a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger; NaN where either is NaN."""
    return a + b if a != a or b != b else max(a, b)


def _guarded(function: Callable[[float], float], pole: Callable[[float], float] = lambda _: math.nan) -> Any:
    """A function of a Float that gives infinity on overflow and `pole(x)` outside its domain."""

    def guarded(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return pole(x)

    return guarded


def _log_pole(zero: float) -> Callable[[float], float]:
    return lambda x: -math.inf if x == zero else math.nan


def _rsqrt(x: float) -> float:
    if x < 0.0 or x != x:
        return math.nan
    return divide(1.0, math.sqrt(x))


def _sigmoid(x: float) -> float:
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x)) if x == x else x


def _rounded(function: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: x if math.isinf(x) or math.isnan(x) else math.copysign(float(function(x)), x)


def round_to(dtype: str, value: float) -> float:
    """The nearest float16 or bfloat16, ties to even, as a double; rounded to float32 first, as torch does."""
    if value != value or math.isinf(value):
        return value
    try:
        packed = struct.pack("<f", value)
        if dtype == "float16":
            (single,) = struct.unpack("<f", packed)
            return float(struct.unpack("<e", struct.pack("<e", single))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
    (bits,) = struct.unpack("<I", packed)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", rounded))[0])


def _where(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


EVALUATE: Final[Mapping[Op, Callable[..., Any]]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: divide,
    Op.FLOORDIV: floor_divide,
    Op.MOD: modulo,
    Op.POW: power,
    Op.NEG: lambda a: -a,
    Op.ABS: abs,
    Op.MIN: minimum,
    Op.MAX: maximum,
    Op.BIT_AND: lambda a, b: a & b,
    Op.BIT_OR: lambda a, b: a | b,
    Op.BIT_XOR: lambda a, b: a ^ b,
    Op.SHIFT_LEFT: lambda a, b: a << b,
    Op.SHIFT_RIGHT: lambda a, b: a >> b,
    Op.EXP: _guarded(math.exp),
    Op.EXP2: _guarded(math.exp2),
    Op.EXPM1: _guarded(math.expm1),
    Op.LOG: _guarded(math.log, _log_pole(0.0)),
    Op.LOG2: _guarded(math.log2, _log_pole(0.0)),
    Op.LOG1P: _guarded(math.log1p, _log_pole(-1.0)),
    Op.SQRT: _guarded(math.sqrt),
    Op.RSQRT: _rsqrt,
    Op.TANH: math.tanh,
    Op.SIGMOID: _sigmoid,
    Op.SIN: _guarded(math.sin),
    Op.COS: _guarded(math.cos),
    Op.ATAN: math.atan,
    Op.ERF: math.erf,
    Op.FLOOR: _rounded(math.floor),
    Op.CEIL: _rounded(math.ceil),
    Op.ROUND: _rounded(round),
    Op.TRUNC: _rounded(math.trunc),
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
    Op.EQ: lambda a, b: a == b,
    Op.NE: lambda a, b: a != b,
    Op.AND: lambda a, b: a and b,
    Op.OR: lambda a, b: a or b,
    Op.XOR: lambda a, b: a != b,
    Op.NOT: lambda a: not a,
    Op.WHERE: _where,
}


def evaluate(root: Expr, inputs: Mapping[str, Number], load: Loader | None = None) -> Number:
    """The value of an expression. `inputs` holds inputs and parameters by name, `load` reads captured tensors."""
    values: dict[Expr, Any] = {}
    for expr in postorder(root):
        values[expr] = _value(expr, values, inputs, load)
    result: Number = values[root]
    return result


def _value(expr: Expr, values: Mapping[Expr, Any], inputs: Mapping[str, Number], load: Loader | None) -> Any:
    args = [values[arg] for arg in expr.args]
    match expr.op:
        case Op.CONST:
            return expr.value
        case Op.INPUT | Op.PARAM:
            return inputs[str(expr.value)]
        case Op.LOAD:
            if load is None:
                raise KeyError(f"no captured tensor {expr.value}")
            return load(str(expr.value), tuple(args))
        case Op.CAST:
            return float(args[0]) if expr.scalar is Scalar.FLOAT else int(args[0])
        case Op.NARROW:
            return round_to(str(expr.value), args[0])
        case _:
            return EVALUATE[expr.op](*args)

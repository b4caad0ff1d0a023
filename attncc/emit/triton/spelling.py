"""How Triton writes each operation.

Where Triton has no operation of the same meaning, the row calls a small function of `HELPERS`; a kernel prints those
that it calls. Integer division truncates in Triton at run time: `EXACT` holds the plain operators, for operands that
intervals prove to be non-negative.
"""

from __future__ import annotations

import math
from typing import Final

from attncc.emit.spelling import Form, Forms, Spelling, binary, call, compare, method
from attncc.ir import Op, Scalar
from attncc.ir.syntax import Level

#: Source of each function that a row may call, by its name. They call one another only upwards in this table.
HELPERS: Final[dict[str, str]] = {
    "floor_div": """
@triton.jit
def floor_div(a, b):
    \"\"\"a // b rounded towards minus infinity; Triton truncates.\"\"\"
    quotient = a // b
    return quotient - ((a - quotient * b != 0) & ((a < 0) != (b < 0))).to(tl.int32)
""",
    "floor_mod": """
@triton.jit
def floor_mod(a, b):
    \"\"\"a % b with the sign of b; Triton gives it the sign of a.\"\"\"
    remainder = a % b
    return remainder + tl.where((remainder != 0) & ((remainder < 0) != (b < 0)), b, 0)
""",
    "tanh": """
@triton.jit
def tanh(x):
    \"\"\"Hyperbolic tangent: odd, 1 - 2 / (1 + exp(2|x|)), and x - x^3 / 3 where that would cancel.\"\"\"
    size = tl.abs(x)
    large = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * size))
    small = size - size * size * size * (0.33333334 - 0.13333334 * size * size)
    result = tl.where(size < 0.05, small, large)
    return tl.where(x < 0.0, -result, result)
""",
    "expm1": """
@triton.jit
def expm1(x):
    \"\"\"exp(x) - 1 without cancellation near 0 (Kahan).\"\"\"
    u = tl.exp(x)
    exact = (u == 1.0) | (u - 1.0 == -1.0) | (u == float("inf"))
    corrected = (u - 1.0) * (x / tl.log(tl.where(exact, 2.0, u)))
    return tl.where(u == 1.0, x, tl.where(exact, u - 1.0, corrected))
""",
    "log1p": """
@triton.jit
def log1p(x):
    \"\"\"log(1 + x) without cancellation near 0 (Kahan).\"\"\"
    u = 1.0 + x
    exact = (u == 1.0) | (u == float("inf"))
    return tl.where(u == 1.0, x, tl.log(u) * tl.where(exact, 1.0, x / tl.where(exact, 1.0, u - 1.0)))
""",
    "atan": """
@triton.jit
def atan(x):
    \"\"\"Arc tangent; arguments above tan(pi/8) are reduced, then a minimax polynomial (Cephes atanf).\"\"\"
    size = tl.abs(x)
    far = size > 2.414213562373095
    near = size > 0.4142135623730950
    safe = tl.where(size == 0.0, 1.0, size)
    t = tl.where(far, -1.0 / safe, tl.where(near, (size - 1.0) / (size + 1.0), size))
    base = tl.where(far, 1.5707963267948966, tl.where(near, 0.7853981633974483, 0.0))
    z = t * t
    poly = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    result = base + (poly * z * t + t)
    result = tl.where(size == float("inf"), 1.5707963267948966, result)
    return tl.where(x < 0.0, -result, result)
""",
    "round_even": """
@triton.jit
def round_even(x):
    \"\"\"The nearest integer, ties to even, with the sign of x: adding 2^23 leaves no bits for a fraction.\"\"\"
    size = tl.abs(x)
    whole = (size + 8388608.0) - 8388608.0
    signed = tl.where(whole == 0.0, x * 0.0, tl.where(x < 0.0, -whole, whole))
    return tl.where(size < 8388608.0, signed, x)
""",
    "trunc": """
@triton.jit
def trunc(x):
    \"\"\"Rounded towards zero.\"\"\"
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))
""",
    "float_mod": """
@triton.jit
def float_mod(a, b):
    \"\"\"a % b with the sign of b.\"\"\"
    remainder = a % b
    return tl.where((remainder != 0.0) & ((remainder < 0.0) != (b < 0.0)), remainder + b, remainder)
""",
    "float_floor_div": """
@triton.jit
def float_floor_div(a, b):
    \"\"\"a // b rounded towards minus infinity, from the remainder: 1 // 0.1 is 9, though 1 / 0.1 rounds to 10.\"\"\"
    remainder = a % b
    quotient = (a - remainder) / b
    quotient = tl.where((remainder != 0.0) & ((remainder < 0.0) != (b < 0.0)), quotient - 1.0, quotient)
    down = tl.floor(quotient)
    return tl.where(b == 0.0, a / b, tl.where(quotient - down > 0.5, down + 1.0, down))
""",
    "power": """
@triton.jit
def power(a, b):
    \"\"\"a ** b; NaN for a negative base with a fractional exponent.\"\"\"
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b * 0.5) * 2.0 != b)
    size = tl.exp2(b * tl.log2(tl.abs(a)))
    size = tl.where((b == 0.0) | (a == 1.0) | ((a == -1.0) & (b == b)), 1.0, size)
    signed = tl.where(((a < 0.0) | (1.0 / a < 0.0)) & odd, -size, size)
    return tl.where((a < 0.0) & (a > float("-inf")) & (whole == 0), float("nan"), signed)
""",
}

#: Shorter forms, for scores of 16-bit products: near 0 they lose relative precision, never more than 1e-7 absolutely.
SHORT_HELPERS: Final[dict[str, str]] = {
    "tanh": """
@triton.jit
def tanh(x):
    \"\"\"Hyperbolic tangent as 1 - 2 / (1 + exp(2x)), within 1e-7.\"\"\"
    return 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))
""",
}

#: The instructions of NVIDIA GPUs behind the operations that a kernel may approximate.
FAST_HELPERS: Final[dict[str, str]] = {
    "fast_tanh": """
@triton.jit
def fast_tanh(x):
    \"\"\"Hyperbolic tangent by one instruction, off by at most 2**-11 of the result.\"\"\"
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
""",
}
FAST_TANH: Final = call("fast_tanh")

#: What turns natural logarithms into those of base 2; every template defines the name.
LOG2E: Final = 1.4426950408889634


def _number(value: bool | int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return "LOG2E" if value == LOG2E else repr(value)


def _tensor(value: bool | int | float) -> str:
    dtype = {bool: "tl.int1", int: "tl.int32", float: "tl.float32"}[type(value)]
    return f"tl.full([1, 1], {_number(value)}, {dtype})"


_FUNCTIONS: Final = {
    Op.EXP: "tl.exp",
    Op.EXP2: "tl.exp2",
    Op.EXPM1: "expm1",
    Op.LOG: "tl.log",
    Op.LOG2: "tl.log2",
    Op.LOG1P: "log1p",
    Op.SQRT: "tl.sqrt_rn",
    Op.RSQRT: "tl.rsqrt",
    Op.TANH: "tanh",
    Op.SIGMOID: "tl.sigmoid",
    Op.SIN: "tl.sin",
    Op.COS: "tl.cos",
    Op.ATAN: "atan",
    Op.ERF: "tl.erf",
    Op.FLOOR: "tl.floor",
    Op.CEIL: "tl.ceil",
    Op.ROUND: "round_even",
    Op.TRUNC: "trunc",
    Op.ABS: "tl.abs",
}

#: Division of Index operands that are proven to be non-negative.
EXACT: Final[dict[Op, Form]] = {
    Op.FLOORDIV: binary("//", Level.PRODUCT),
    Op.MOD: binary("%", Level.PRODUCT),
}

TRITON_FORMS: Final[Forms] = {
    Op.ADD: binary("+", Level.SUM),
    Op.SUB: binary("-", Level.SUM),
    Op.MUL: binary("*", Level.PRODUCT),
    Op.DIV: binary("/", Level.PRODUCT),
    (Op.FLOORDIV, Scalar.INDEX): Form("floor_div({0}, {1})", tensors=(0, 1)),
    (Op.FLOORDIV, Scalar.FLOAT): Form("float_floor_div({0}, {1})", always=(0, 1)),
    (Op.MOD, Scalar.INDEX): Form("floor_mod({0}, {1})", tensors=(0, 1)),
    (Op.MOD, Scalar.FLOAT): Form("float_mod({0}, {1})", always=(0, 1)),
    Op.POW: Form("power({0}, {1})", always=(0, 1)),
    Op.NEG: Form("-{0}", Level.UNARY, (Level.UNARY,), always=(0,)),
    (Op.MIN, Scalar.INDEX): Form("tl.minimum({0}, {1})", tensors=(0, 1)),
    (Op.MAX, Scalar.INDEX): Form("tl.maximum({0}, {1})", tensors=(0, 1)),
    (Op.MIN, Scalar.FLOAT): Form("tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", tensors=(0, 1)),
    (Op.MAX, Scalar.FLOAT): Form("tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", tensors=(0, 1)),
    **{op: call(name) for op, name in _FUNCTIONS.items()},
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
    Op.NOT: Form("{0} == 0", Level.COMPARISON, (Level.BIT_OR,), always=(0,)),
    Op.WHERE: Form("tl.where({0}, {1}, {2})", tensors=(1, 2), always=(0,)),
}

TRITON: Final = Spelling(
    name="triton",
    forms=TRITON_FORMS,
    casts={
        (Scalar.BOOL, Scalar.INDEX): method(".to(tl.int32)"),
        (Scalar.BOOL, Scalar.FLOAT): method(".to(tl.float32)"),
        (Scalar.INDEX, Scalar.FLOAT): method(".to(tl.float32)"),
        (Scalar.FLOAT, Scalar.INDEX): method(".to(tl.int32)"),  # truncates
    },
    narrow={
        "bfloat16": method(".to(tl.bfloat16).to(tl.float32)"),
        "float16": method(".to(tl.float16).to(tl.float32)"),
    },
    number=_number,
    tensor=_tensor,
)

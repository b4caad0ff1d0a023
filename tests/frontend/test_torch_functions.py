"""Each torch function in the tables means what torch says it means, at ties, infinities and NaN too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attncc.frontend import activations, torch_functions
from attncc.frontend.algebra import POINTWISE
from tests.frontend.oracle import agree

assert activations
assert torch_functions

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in (
            *(
                "exp",
                "exp2",
                "expm1",
                "log",
                "log2",
                "log10",
                "log1p",
                "sqrt",
                "rsqrt",
                "tanh",
                "sigmoid",
                "sin",
                "cos",
            ),
            *("tan", "atan", "arctan", "asin", "arcsin", "acos", "arccos", "sinh", "cosh", "asinh", "arcsinh", "acosh"),
            *("arccosh", "atanh", "arctanh", "erf", "erfc", "floor", "ceil", "trunc", "fix", "round", "frac", "neg"),
            *("negative", "abs", "absolute", "positive", "square", "reciprocal", "sign", "sgn", "relu", "selu", "celu"),
            *("sinc", "deg2rad", "rad2deg"),
        )
    },
    **{
        f"F.{name}": getattr(F, name)
        for name in (
            *("relu", "relu6", "silu", "gelu", "softplus", "logsigmoid", "leaky_relu", "elu", "celu", "selu", "mish"),
            *("softsign", "tanhshrink", "hardsigmoid", "hardswish", "hardtanh", "hardshrink", "softshrink"),
        )
    },
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus beta": lambda x: F.softplus(x, beta=2, threshold=5),
    "threshold": lambda x: F.threshold(x, 0.5, -7.0),
    "prelu": lambda x: F.prelu(x, torch.tensor(0.25, dtype=torch.float64)),
    "special.expit": torch.special.expit,
    "special.erf": torch.special.erf,
    "special.exp2": torch.special.exp2,
    "logit": lambda x: torch.logit(x, eps=1e-3),
    "round decimals": lambda x: torch.round(x, decimals=2),
    "round tens": lambda x: torch.round(x, decimals=-1),
    "clamp": lambda x: x.clamp(-1, 2),
    "clamp min": lambda x: torch.clamp(x, min=0.5),
    "clamp max": lambda x: x.clamp(max=0.5),
    "clip": lambda x: torch.clip(x, -0.25, 0.25),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clamp_max": lambda x: x.clamp_max(0.0),
    "nan_to_num": lambda x: torch.nan_to_num(x, 7.0, posinf=8.0, neginf=-9.0),
    "power": lambda x: x**3,
    "root": lambda x: x**0.5,
    "float_power": lambda x: torch.float_power(x, 2),
    "base": lambda x: 2.0**x,
    "reflected": lambda x: 1.0 - 2.0 / (3.0 + 4.0 * x),
    "unary signs": lambda x: -(+x),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in (
            *(
                "add",
                "sub",
                "subtract",
                "mul",
                "multiply",
                "div",
                "divide",
                "true_divide",
                "maximum",
                "minimum",
                "fmax",
            ),
            *("fmin", "remainder", "fmod", "floor_divide", "pow", "hypot", "atan2", "arctan2", "copysign", "logaddexp"),
            *("xlogy", "heaviside", "rsub"),
        )
    },
    "add alpha": lambda x, y: torch.add(x, y, alpha=3),
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=0.5),
    "div floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "div trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp far": lambda x, y: torch.lerp(x, y, 0.7),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=2.0),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=2.0),
    "max of two": torch.max,
    "min of two": torch.min,
    "where": lambda x, y: torch.where(x > y, x, y),
    "where as a method": lambda x, y: x.where(x > y, y) + y.where(y > x, 2.0),
    "masked_fill": lambda x, y: x.masked_fill(x < y, 3),
    "clamp tensors": lambda x, y: torch.clamp(x, y - 1, y + 1),
}
TESTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in ("lt", "le", "gt", "ge", "eq", "ne", "less", "greater", "not_equal")},
    **{name: getattr(torch, name) for name in ("less_equal", "greater_equal", "isclose")},
    **{name: getattr(torch, name) for name in ("logical_and", "logical_or", "logical_xor")},
    "isnan": lambda x, y: torch.isnan(x / y),
    "isinf": lambda x, y: torch.isinf(x / y),
    "isfinite": lambda x, y: torch.isfinite(x / y),
    "isposinf": lambda x, y: torch.isposinf(x / y),
    "isneginf": lambda x, y: torch.isneginf(x / y),
    "signbit": lambda x, y: torch.signbit(x - y),
    "logical_not": lambda x, y: torch.logical_not(x * y),
    "isclose nan": lambda x, y: torch.isclose(x / y, y / x, equal_nan=True),
    "to bool": lambda x, y: (x - y).bool(),
}


def other(q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """A float that takes special values: ties with the scores, 0 and NaN."""
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, math.inf, -math.inf, math.nan, -3.0, 7.25, 0.3]).double()
    return values[(q_idx * 5 + kv_idx) % 12]


@pytest.mark.parametrize("name", UNARY)
def test_function_of_a_float_means_what_torch_says(name: str) -> None:
    function = UNARY[name]
    tolerance = 1e-5 if name in ("erfc", "acosh", "arccosh", "asinh", "arcsinh", "tan") else 1e-9

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return function(score)

    agree(score_mod, tolerance=tolerance)


@pytest.mark.parametrize("name", BINARY)
def test_function_of_two_floats_means_what_torch_says(name: str) -> None:
    function = BINARY[name]

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return function(score, other(q_idx, kv_idx))

    agree(score_mod, tolerance=1e-9, count=200)


@pytest.mark.parametrize("name", TESTS)
def test_condition_on_floats_means_what_torch_says(name: str) -> None:
    function = TESTS[name]

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where(function(score, other(q_idx, kv_idx)), 1.0, score * 0 + 2.0)

    agree(score_mod, count=200)


INTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "//": lambda i, j: (i - 5) // (j + 1),
    "%": lambda i, j: (i - 5) % (j + 1),
    "reflected //": lambda i, j: -7 // (j + 1),
    "reflected %": lambda i, j: -7 % (j + 1),
    "reflected /": lambda i, j: 7 / (j + 1),
    "reflected -": lambda i, j: 7 - j,
    "& | ^ ~": lambda i, j: (i & j) | (i ^ ~j),
    "reflected & | ^": lambda i, j: (6 & i) + (3 | j) + (5 ^ i),
    "<< >>": lambda i, j: (i << 2) + (j >> 1),
    "**": lambda i, j: i**2 - j**3,
    "abs neg": lambda i, j: abs(i - j) * -i,
    "fmod": lambda i, j: torch.fmod(i - 5, j + 1),
    "div trunc": lambda i, j: torch.div(i - 5, j + 1, rounding_mode="trunc"),
    "div floor": lambda i, j: torch.div(i - 5, j + 1, rounding_mode="floor"),
    "floor_divide": lambda i, j: torch.floor_divide(i - 5, 3),
    "remainder": lambda i, j: torch.remainder(i - 5, 3),
    "bitwise": lambda i, j: torch.bitwise_and(i, j) + torch.bitwise_or(i, 3) + torch.bitwise_xor(i, j),
    "shifts": lambda i, j: torch.bitwise_left_shift(i, 2) + torch.bitwise_right_shift(j, 1) + torch.bitwise_not(i),
    "min max": lambda i, j: torch.maximum(i, j) - torch.minimum(i, j),
    "clamp": lambda i, j: (i - j).clamp(-2, 3),
    "sign": lambda i, j: torch.sign(i - j),
    "where": lambda i, j: torch.where(i > j, i, 0),
    "square": lambda i, j: torch.square(i) + torch.neg(j),
    "floor": lambda i, j: torch.floor(i) + torch.round(j),
    "/": lambda i, j: i / (j + 2),
    "mean": lambda i, j: (i + j).float() / 2,
    "bool arithmetic": lambda i, j: (i > j) + (i > 2) * (j > 3) + i,
    "bool times": lambda i, j: (i > j) * i,
    "cast": lambda i, j: (i.float() / 3).int() - (-(j.float() / 3)).long(),
}


@pytest.mark.parametrize("name", INTS)
def test_ints_compute_as_in_torch(name: str) -> None:
    function = INTS[name]

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * 0.0 + function(q_idx, kv_idx)

    agree(score_mod, count=120, scores=(1.0,))


def test_every_name_of_the_table_is_a_function_or_a_method_of_torch() -> None:
    homes = (torch, Tensor, F, torch._C._special, torch._C._nn, torch.special)
    unknown = [name for name in POINTWISE if not any(hasattr(home, name) for home in homes) and name != "Tensor.where"]
    assert unknown == []

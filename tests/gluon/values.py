"""Tensors and scalars of a kernel: numpy values with Gluon's types, promotion and integer division; layouts ignored.

The 16-bit floats are kept as float32 and rounded after every operation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.gluon.machine import Fault, Kind, here

if TYPE_CHECKING:
    from tests.gluon.products import Product

Array = Any  # a numpy array or a numpy scalar
Number = bool | int | float


@dataclass(frozen=True)
class Dtype:
    """An element type. `rank` orders types for promotion."""

    name: str
    array: np.dtype[Any]
    primitive_bitwidth: int
    rank: int

    @property
    def itemsize(self) -> int:
        return max(self.primitive_bitwidth // 8, 1)

    @property
    def is_float(self) -> bool:
        return self.array.kind == "f"

    def is_floating(self) -> bool:
        return self.is_float

    def is_int(self) -> bool:
        return not self.is_float

    def __deepcopy__(self, memo: object) -> Dtype:
        return self  # types are compared by identity

    def hold(self, values: Array) -> Array:
        """Values as this type holds them."""
        held = np.asarray(values).astype(self.array, copy=False)
        if self.name == "bf16":
            return _round_to_bfloat16(held)
        return held.astype(np.float16).astype(np.float32) if self.name == "fp16" else held


def _round_to_bfloat16(values: Array) -> Array:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)).astype(np.uint32)
    return np.where(np.isnan(values), np.float32(np.nan), rounded.view(np.float32)).reshape(np.shape(values))


def _dtype(name: str, array: type, bits: int, rank: int) -> Dtype:
    return Dtype(name, np.dtype(array), bits, rank)


INT1: Final = _dtype("int1", np.bool_, 1, 0)
INT8: Final = _dtype("int8", np.int8, 8, 1)
UINT8: Final = _dtype("uint8", np.uint8, 8, 2)
INT16: Final = _dtype("int16", np.int16, 16, 3)
UINT16: Final = _dtype("uint16", np.uint16, 16, 4)
INT32: Final = _dtype("int32", np.int32, 32, 5)
UINT32: Final = _dtype("uint32", np.uint32, 32, 6)
INT64: Final = _dtype("int64", np.int64, 64, 7)
UINT64: Final = _dtype("uint64", np.uint64, 64, 8)
BFLOAT16: Final = _dtype("bf16", np.float32, 16, 9)
FLOAT16: Final = _dtype("fp16", np.float32, 16, 9)
FLOAT32: Final = _dtype("fp32", np.float32, 32, 10)
FLOAT64: Final = _dtype("fp64", np.float64, 64, 11)
DTYPES: Final = (
    *(INT1, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64),
    *(BFLOAT16, FLOAT16, FLOAT32, FLOAT64),
)
BY_NAME: Final = {dtype.name: dtype for dtype in DTYPES}
BY_ARRAY: Final = {dtype.array: dtype for dtype in DTYPES if dtype.array != np.float32} | {
    np.dtype(np.float32): FLOAT32
}


@dataclass(frozen=True)
class Flaw:
    """Why values must not be looked at; `product` if they are still being computed."""

    kind: Kind
    reason: str
    product: Product | None = None


class Tensor:
    """A tensor, or a scalar that is known only at run time."""

    __array_priority__ = 1000
    __slots__ = ("_values", "dtype", "flaw")

    def __init__(self, values: Array, dtype: Dtype, flaw: Flaw | None = None) -> None:
        self._values = values
        self.dtype = dtype
        self.flaw = flaw

    @property
    def values(self) -> Array:
        """The values. Raises Fault if they are unfinished or undefined."""
        if self.flaw is not None:
            raise Fault(self.flaw.kind, f"{self.flaw.reason} is used {here()}")
        return self._values

    @property
    def raw(self) -> Array:
        """The values, whatever they are worth."""
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self._values))

    @property
    def type(self) -> Tensor:
        return self

    @property
    def T(self) -> Tensor:
        return Tensor(self.values.T, self.dtype)

    def __repr__(self) -> str:
        return f"Tensor({self._values!r}, {self.dtype.name})"

    def to(self, dtype: Dtype, bitcast: bool = False, **rounding: object) -> Tensor:
        if bitcast:
            return Tensor(np.ascontiguousarray(self.values).view(dtype.array).reshape(self.shape), dtype)
        return Tensor(dtype.hold(self.values), dtype)

    cast = to

    def reshape(self, *shape: Any) -> Tensor:
        return Tensor(self.values.reshape(sizes(shape)), self.dtype)

    def permute(self, *order: Any) -> Tensor:
        return Tensor(self.values.transpose(sizes(order)), self.dtype)

    def broadcast_to(self, *shape: Any) -> Tensor:
        return Tensor(np.broadcast_to(self.values, sizes(shape)), self.dtype)

    def split(self) -> tuple[Tensor, Tensor]:
        return Tensor(self.values[..., 0], self.dtype), Tensor(self.values[..., 1], self.dtype)

    def __getitem__(self, key: Any) -> Tensor:
        keys = key if isinstance(key, tuple) else (key,)
        if any(k is not None and k != slice(None) for k in keys):
            raise Fault("type", f"a tensor is indexed by {key}, only None and : are allowed {here()}")
        return Tensor(self.values[key], self.dtype)

    def __neg__(self) -> Tensor:
        return Tensor(self.dtype.hold(-self.values), self.dtype)

    def __invert__(self) -> Tensor:
        return Tensor(~self.values, self.dtype)

    def _scalar(self) -> Array:
        if self.shape:
            raise Fault("type", f"a tensor of shape {self.shape} where a scalar is needed {here()}")
        return self.values

    def __bool__(self) -> bool:
        return bool(self._scalar())

    def __int__(self) -> int:
        return int(self._scalar())

    def __index__(self) -> int:
        if self.dtype.is_float:
            raise Fault("type", f"a {self.dtype.name} where an integer is needed {here()}")
        return int(self._scalar())

    def __float__(self) -> float:
        return float(self._scalar())

    __hash__ = None  # type: ignore[assignment]  # == compares elements


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape that was given as one list or as several numbers."""
    flat = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    return tuple(int(size) for size in flat)


def scalar_dtype(value: Number) -> Dtype:
    """The type that a Python number gets."""
    match value:
        case bool():
            return INT1
        case int():
            return INT32 if -(2**31) <= value < 2**31 else UINT32 if 0 < value < 2**32 else INT64
        case float():
            return FLOAT32


def tensor(value: Any) -> Tensor:
    """A tensor, or a Python number as one."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, bool | int | float):
        raise Fault("type", f"{value!r} where a tensor or a number is needed {here()}")
    dtype = scalar_dtype(value)
    return Tensor(dtype.hold(value), dtype)


def common(a: Any, b: Any) -> tuple[Array, Array, Dtype]:
    """Values of both operands in the type that they share; a Python number takes the other's type if it fits."""
    x, y = tensor(a), tensor(b)
    dtype = _common_dtype(x.dtype, y.dtype)
    if not isinstance(a, Tensor) and isinstance(b, Tensor):
        dtype = _weak(a, y.dtype)
    elif not isinstance(b, Tensor) and isinstance(a, Tensor):
        dtype = _weak(b, x.dtype)
    return x.values.astype(dtype.array, copy=False), y.values.astype(dtype.array, copy=False), dtype


def _common_dtype(a: Dtype, b: Dtype) -> Dtype:
    if a is not b and a.rank == b.rank:
        return FLOAT32  # bf16 with fp16
    return a if a.rank >= b.rank else b


def _weak(number: Number, dtype: Dtype) -> Dtype:
    if isinstance(number, float):
        return dtype if dtype.is_float else FLOAT32
    return dtype if dtype.rank >= INT32.rank and abs(number) < 2**31 else _common_dtype(scalar_dtype(number), dtype)


def combine(function: Callable[[Array, Array], Array], a: Any, b: Any, result: Dtype | None = None) -> Tensor:
    """Apply an elementwise function to two operands of one type."""
    x, y, dtype = common(a, b)
    out = result or dtype
    return Tensor(out.hold(function(x, y)), out)


def divide(x: Array, y: Array) -> Array:
    """Quotient rounded towards zero, as the hardware has it."""
    quotient = np.abs(x) // np.where(y == 0, 1, np.abs(y))
    return np.where((x < 0) != (y < 0), -quotient, quotient)


def _quotient(a: Any, b: Any) -> Tensor:
    x, y, dtype = common(a, b)
    if dtype.is_float:
        raise Fault("type", f"// of floats {here()}")
    return Tensor(dtype.hold(divide(x, y)), dtype)


def _ratio(a: Any, b: Any) -> Tensor:
    x, y, dtype = common(a, b)
    out = dtype if dtype.is_float else FLOAT32
    return Tensor(out.hold(np.true_divide(x, y)), out)


def _remainder(x: Array, y: Array) -> Array:
    return np.fmod(x, y) if x.dtype.kind == "f" else np.fmod(x, np.where(y == 0, 1, y))


def _operator(function: Callable[[Array, Array], Array], result: Dtype | None = None) -> tuple[Any, Any]:
    return (
        lambda self, other: combine(function, self, other, result),
        lambda self, other: combine(function, other, self, result),
    )


def _install() -> None:
    plain: dict[str, Callable[[Array, Array], Array]] = {
        **{name: getattr(operator, name) for name in ("add", "sub", "mul", "lshift", "rshift")},
        **{name: getattr(operator, f"{name}_") for name in ("and", "or")},
        "xor": operator.xor,
        "mod": _remainder,
    }
    for name, function in plain.items():
        forward, reflected = _operator(function)
        setattr(Tensor, f"__{name}__", forward)
        setattr(Tensor, f"__r{name}__", reflected)
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Tensor, f"__{name}__", _operator(getattr(operator, name), INT1)[0])
    for name, special in {"truediv": _ratio, "floordiv": _quotient}.items():
        setattr(Tensor, f"__{name}__", special)
        setattr(Tensor, f"__r{name}__", lambda self, other, f=special: f(other, self))


_install()


def check_shape(found: Sequence[int], wanted: Sequence[int], what: str) -> None:
    """Raises Fault if a shape is not the one that is needed."""
    if list(found) != list(wanted):
        raise Fault("type", f"{what}: shape {list(found)} where {list(wanted)} is needed {here()}")

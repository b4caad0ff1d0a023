"""What kernels call as `gl`: the functions and types of Gluon's language, on numpy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from tests.gluon import pointers
from tests.gluon.assembly import inline_asm_elementwise
from tests.gluon.barriers import Mbarriers
from tests.gluon.machine import Fault, current, here, join
from tests.gluon.memory import Allocation, Shared
from tests.gluon.values import DTYPES, FLOAT32, INT32, Array, Dtype, Tensor, combine, common, sizes, tensor


class Namespace:
    """A module of the model; what it lacks is not modelled."""

    def __init__(self, name: str, **members: Any) -> None:
        self.__dict__.update(members, __name__=name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Fault("unmodelled", f"{self.__name__}.{name}")


class Layout:
    """Any layout; the simulator looks at none of them."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        self.__dict__.update(settings)

    @staticmethod
    def get_default_for(*arguments: object, **settings: object) -> Layout:
        return Layout()


class MBarrierLayout(Layout):
    """The layout that makes an allocation an array of mbarriers."""


def constexpr(value: Any) -> Any:
    """A constant of compile time is a plain Python value."""
    return value


def arange(start: int, end: int, layout: object = None) -> Tensor:
    """Whole numbers from `start` to `end`, a power of two of them."""
    size = int(end) - int(start)
    if size < 1 or size & (size - 1):
        raise Fault("type", f"a range of {size} elements, which is no power of two {here()}")
    return Tensor(np.arange(int(start), int(end), dtype=np.int32), INT32)


def full(shape: Any, value: Any, dtype: Dtype, layout: object = None) -> Tensor:
    """A tensor that is `value` everywhere."""
    return Tensor(np.full(sizes((list(shape),)), dtype.hold(tensor(value).values)), dtype)


def zeros(shape: Any, dtype: Dtype, layout: object = None) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype)


def full_like(like: Tensor, value: Any, **changes: Any) -> Tensor:
    """A tensor that is `value` everywhere, of the shape and type of another unless told."""
    return full(changes.get("shape") or like.shape, value, changes.get("dtype") or like.dtype)


def _float_function(function: Callable[..., Array]) -> Callable[..., Tensor]:
    def apply(*operands: Any, **hints: object) -> Tensor:
        values = [tensor(operand) for operand in operands]
        dtype = values[0].dtype if values[0].dtype.is_float else FLOAT32
        return Tensor(dtype.hold(function(*(x.values.astype(dtype.array, copy=False) for x in values))), dtype)

    return apply


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    terms = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    return np.sign(x) * (1 - sum(c * t ** (i + 1) for i, c in enumerate(terms)) * np.exp(-x * x))


FUNCTIONS: Final[dict[str, Callable[..., Array]]] = {
    **{name: getattr(np, name) for name in ("exp", "exp2", "log", "log2", "sqrt", "sin", "cos", "floor", "ceil")},
    "sqrt_rn": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": _erf,
    "fma": lambda a, b, c: a * b + c,
    "fdiv": np.divide,
    "div_rn": np.divide,
}
LIBDEVICE: Final[dict[str, Callable[..., Array]]] = {
    **{name: getattr(np, name) for name in ("tanh", "expm1", "log1p", "rint", "trunc", "exp", "exp2", "log2", "sqrt")},
    "fast_tanhf": np.tanh,
    "atan": np.arctan,
    "pow": np.power,
    "erf": _erf,
}


def absolute(x: Any) -> Tensor:
    """The absolute value."""
    value = tensor(x)
    return Tensor(np.abs(value.values), value.dtype)


def maximum(a: Any, b: Any, propagate_nan: object = None) -> Tensor:
    """The larger of two; a NaN loses unless it shall propagate."""
    return combine(np.maximum if propagate_nan == "all" else np.fmax, a, b)


def minimum(a: Any, b: Any, propagate_nan: object = None) -> Tensor:
    """The smaller of two; a NaN loses unless it shall propagate."""
    return combine(np.minimum if propagate_nan == "all" else np.fmin, a, b)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """`a` where the condition holds, elsewhere `b`."""
    x, y, dtype = common(a, b)
    return Tensor(np.where(tensor(condition).values.astype(np.bool_), x, y), dtype)


def cdiv(a: Any, b: Any) -> Any:
    """The quotient of non-negative integers, rounded up; a constant for constants."""
    return (a + b - 1) // b


def umulhi(a: Any, b: Any) -> Tensor:
    """The upper 32 bits of the product of two unsigned integers."""
    x, y, dtype = common(a, b)
    product = x.astype(np.uint32).astype(np.uint64) * y.astype(np.uint32).astype(np.uint64)
    return Tensor(dtype.hold((product >> np.uint64(32)).astype(np.uint32)), dtype)


def _reduction(function: Callable[..., Array]) -> Callable[..., Tensor]:
    def apply(x: Tensor, axis: Any = None, keep_dims: bool = False, **hints: object) -> Tensor:
        place = None if axis is None else int(axis)
        return Tensor(x.dtype.hold(function(x.values, axis=place, keepdims=keep_dims)), x.dtype)

    return apply


def total(x: Tensor, axis: Any = None, keep_dims: bool = False) -> Tensor:
    """The sum; integers of fewer than 32 bits add up to int32."""
    wide = x if x.dtype.is_float or x.dtype.primitive_bitwidth >= 32 else x.to(INT32)
    return _reduction(np.add.reduce)(wide, axis, keep_dims)


def reduce(x: Tensor, axis: int, combine_fn: Callable[[Tensor, Tensor], Tensor], keep_dims: bool = False) -> Tensor:
    """Elements along an axis, combined from the first to the last."""
    parts = np.split(x.values, x.shape[axis], axis)
    result = functools.reduce(combine_fn, (Tensor(part, x.dtype) for part in parts))
    return result if keep_dims else Tensor(result.values.squeeze(axis), result.dtype)


def cumsum(x: Tensor, axis: int = 0) -> Tensor:
    """Sums of everything up to each element; integers of fewer than 32 bits add up to int32."""
    wide = x if x.dtype.is_float or x.dtype.primitive_bitwidth >= 32 else x.to(INT32)
    return Tensor(wide.dtype.hold(np.cumsum(wide.values, axis)), wide.dtype)


def dot(a: Tensor, b: Tensor, acc: Tensor | None = None, **hints: object) -> Tensor:
    """The product of plain Triton, which waits for itself."""
    product = np.matmul(a.values, b.values, dtype=np.float32)
    return Tensor(product if acc is None else product + acc.values, FLOAT32)


def expand_dims(x: Tensor, axis: int) -> Tensor:
    """The same elements with one more dimension of size 1."""
    return Tensor(np.expand_dims(x.values, axis), x.dtype)


def join_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Two tensors as the last dimension of one."""
    return Tensor(np.stack(np.broadcast_arrays(a.values, b.values), -1), a.dtype)


def gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Elements of a tensor by their index along an axis."""
    return Tensor(np.take_along_axis(x.values, index.values, axis), x.dtype)


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x, y = np.broadcast_arrays(a.values, b.values)
    return Tensor(x, a.dtype), Tensor(y, b.dtype)


def same(x: Any, *hints: object, **settings: object) -> Any:
    """The tensor itself: layouts and hints change no value."""
    return x


def nothing(*arguments: object, **settings: object) -> None:
    """What has no effect on values."""


def static_assert(condition: Any, message: str = "") -> None:
    """Raises Fault if a condition of compile time does not hold."""
    if not condition:
        raise Fault("type", f"static_assert {message} {here()}")


def program_id(axis: int) -> Tensor:
    """The place of this program along an axis of the grid."""
    return Tensor(np.int32(current().program.index[axis]), INT32)


def num_programs(axis: int) -> Tensor:
    """The size of the grid along an axis."""
    return Tensor(np.int32(current().program.shape[axis]), INT32)


def runtime_range(*bounds: Any, **hints: object) -> Iterator[Tensor]:
    """`range` of a kernel: what it counts with is known at run time only."""
    return (Tensor(np.int32(i), INT32) for i in range(*(int(bound) for bound in bounds)))


def allocate_shared_memory(dtype: Dtype, shape: Any, layout: object, value: Tensor | None = None) -> Any:
    """Shared memory that nobody has written, or mbarriers where the layout says so."""
    size = sizes((list(shape),))
    if isinstance(layout, MBarrierLayout):
        array = Mbarriers(current().program, size[0])
        return array if len(size) > 1 else array.index(0)
    values, written = np.zeros(size, dtype.array), np.zeros(size, np.bool_)
    memory = Shared(Allocation(dtype, values, written), values, written)
    if value is not None:
        memory.store(value)
    return memory


def warp_specialize(
    functions_and_args: list[tuple[Callable[..., Any], Any]], worker_num_warps: list[int], worker_num_regs: list[int]
) -> Any:
    """Run the first function here and each of the others beside it; returns when all have ended."""
    me = current()
    machine = me.machine
    names = _names([function.__name__ for function, _ in functions_and_args])
    (default, arguments), *workers = functions_and_args
    if not len(workers) == len(worker_num_warps) == len(worker_num_regs):
        raise Fault("type", f"{len(workers)} workers, {worker_num_warps} warps, {worker_num_regs} registers {here()}")
    forked = [
        machine.fork(me.program, name, int(warps), functools.partial(function, *given), me.clock)
        for name, warps, (function, given) in zip(names[1:], worker_num_warps, workers, strict=True)
    ]
    own, me.name = me.name, names[0]
    result = default(*arguments)
    me.check_exit()
    machine.pause(lambda: "its workers", lambda: all(worker.done for worker in forked))
    me.name = own
    for worker in forked:
        join(me.clock, worker.clock)
    return result


def _names(functions: list[str]) -> list[str]:
    counts = {name: functions.count(name) for name in functions}
    return [f"{name}[{functions[:i].count(name)}]" if counts[name] > 1 else name for i, name in enumerate(functions)]


PROPAGATE_NAN: Final = Namespace("PropagateNan", ALL="all", NONE="none")
LIBDEVICE_NAMESPACE: Final = Namespace("libdevice", **{name: _float_function(f) for name, f in LIBDEVICE.items()})
LAYOUTS: Final = (
    *("AutoLayout", "BlockedLayout", "CoalescedLayout", "DistributedLinearLayout", "DotOperandLayout"),
    *("NVMMADistributedLayout", "NVMMASharedLayout", "PaddedSharedLayout", "SharedLinearLayout", "SliceLayout"),
    "SwizzledSharedLayout",
)
TYPE_NAMES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}

#: What plain Triton has beside, for the kernels around those in Gluon.
TRITON_ONLY: Final[dict[str, Any]] = {
    "cumsum": cumsum,
    "debug_barrier": nothing,
    "dot": dot,
    "range": runtime_range,
    "sigmoid": _float_function(lambda x: 1 / (1 + np.exp(-x))),
    "trans": lambda x: x.T,
    "PropagateNan": PROPAGATE_NAN,
}

GL: Final = Namespace(
    "gl",
    **{TYPE_NAMES.get(dtype.name, dtype.name): dtype for dtype in DTYPES},
    **dict.fromkeys(LAYOUTS, Layout),
    **{name: _float_function(function) for name, function in FUNCTIONS.items()},
    **dict.fromkeys(("static_print", "device_print", "device_assert", "assume", "thread_barrier"), nothing),
    **dict.fromkeys(("convert_layout", "set_auto_layout", "multiple_of", "max_contiguous", "max_constancy"), same),
    abs=absolute,
    allocate_shared_memory=allocate_shared_memory,
    arange=arange,
    atomic_add=pointers.atomic(np.add),
    atomic_max=pointers.atomic(np.fmax),
    atomic_min=pointers.atomic(np.fmin),
    atomic_xchg=pointers.atomic(lambda before, value: value),
    broadcast=_broadcast,
    cast=lambda x, dtype: tensor(x).to(dtype),
    cdiv=cdiv,
    constexpr=constexpr,
    expand_dims=expand_dims,
    extra=Namespace("extra", libdevice=LIBDEVICE_NAMESPACE),
    full=full,
    full_like=full_like,
    gather=gather,
    inline_asm_elementwise=inline_asm_elementwise,
    join=join_pairs,
    load=pointers.load,
    max=_reduction(np.fmax.reduce),
    maximum=maximum,
    min=_reduction(np.fmin.reduce),
    minimum=minimum,
    num_ctas=lambda: 1,
    num_programs=num_programs,
    num_warps=lambda: current().warps,
    permute=lambda x, *order: x.permute(*order),
    program_id=program_id,
    reduce=reduce,
    reduce_or=lambda x, axis: Tensor(np.bitwise_or.reduce(x.values, axis=int(axis)), x.dtype),
    reshape=lambda x, *shape: x.reshape(*shape),
    split=lambda x: x.split(),
    static_assert=static_assert,
    static_range=range,
    store=pointers.store,
    sum=total,
    tensor=Tensor,
    to_tensor=tensor,
    umulhi=umulhi,
    warp_specialize=warp_specialize,
    where=where,
    xor_sum=_reduction(np.bitwise_xor.reduce),
    zeros=zeros,
    zeros_like=lambda like: zeros(like.shape, like.dtype),
)

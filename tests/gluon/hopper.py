"""What kernels call as `mbarrier`, `tma` and the products of a warpgroup, and the modules that they import it from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tests.gluon.barriers import Mbarrier
from tests.gluon.language import GL, LIBDEVICE_NAMESPACE, TRITON_ONLY, MBarrierLayout, Namespace, constexpr
from tests.gluon.machine import Fault, current, here
from tests.gluon.memory import Descriptor, Shared, start_load, start_store, wait_for_stores
from tests.gluon.pointers import Pointer
from tests.gluon.products import warpgroup_mma, warpgroup_mma_init, warpgroup_mma_wait
from tests.gluon.values import Tensor


def fence_async_shared(cluster: bool = False) -> None:
    """What this partition stored, and the barriers it made, the TMA and the tensor cores see from here on."""
    me = current()
    for made in me.unfenced:
        made.fenced = True
    me.unfenced.clear()


def _arrive(barrier: Mbarrier, *, count: int = 1, pred: Any = True) -> None:
    current().machine.pause()
    if bool(pred):
        barrier.arrive(int(count))


def _expect(barrier: Mbarrier, bytes: int, pred: Any = True) -> None:
    current().machine.pause()
    if bool(pred):
        barrier.expect(int(bytes))


def _wait(barrier: Mbarrier, phase: Any, pred: Any = True, deps: object = ()) -> None:
    if bool(pred):
        barrier.wait(int(phase))


def _load(tensor_desc: Descriptor, coord: list[Any], barrier: Mbarrier, result: Shared, pred: Any = True) -> None:
    if not isinstance(barrier, Mbarrier):
        raise Fault("type", f"a TMA load needs one mbarrier {here()}")
    if bool(pred):
        start_load(tensor_desc, coord, barrier, result)


def _make_descriptor(
    base: Pointer, shape: list[Any], strides: list[Any], block_shape: list[int], layout: object, **padding: object
) -> Descriptor:
    size = base.base.itemsize
    start = int(base.offsets)
    array = np.lib.stride_tricks.as_strided(
        base.base[start:], [int(n) for n in shape], [int(stride) * size for stride in strides]
    )
    return Descriptor(array, block_shape, base.element.name, layout)


class _Builder:
    """The operations that custom builtins of a kernel reach past Gluon's own functions."""

    def create_async_tma_reduce(self, kind: str, desc: Descriptor, coord: list[Any], src: Shared) -> None:
        if kind != "add":
            raise Fault("unmodelled", f"a TMA reduction by {kind} {here()}")
        start_store(desc, coord, src, adds=True)

    def __getattr__(self, name: str) -> Any:
        raise Fault("unmodelled", f"a builtin that calls {name} {here()}")


class _Semantic:
    builder = _Builder()

    def _convert_to_ir_values(self, values: list[Any], require_i64: bool = True) -> list[Any]:
        return values


def _builtin(function: Callable[..., Any]) -> Callable[..., Any]:
    """A custom builtin runs as it is written, on the builder above."""

    def call(*arguments: Any, **settings: Any) -> Any:
        return function(*arguments, **settings, _semantic=_Semantic())

    return call


def jit(function: Callable[..., Any] | None = None, **options: object) -> Callable[..., Any]:
    """A function of a kernel runs as Python, on the values of the model; its constants must be constants."""
    if function is None:
        return jit
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    constants = [(names.index(name), name) for name, kind in function.__annotations__.items() if kind is constexpr]

    def call(*arguments: Any, **settings: Any) -> Any:
        for place, name in constants:
            value = arguments[place] if place < len(arguments) else settings.get(name)
            if isinstance(value, Tensor):
                raise Fault("type", f"{name} of {function.__name__} must be a constant {here()}")
        return function(*arguments, **settings)

    call.__name__ = function.__name__
    return call if constants else function


MBARRIER: Final = Namespace(
    "mbarrier",
    MBarrierLayout=MBarrierLayout,
    init=lambda barrier, count: barrier.init(int(count)),
    invalidate=lambda barrier: barrier.invalidate(),
    arrive=_arrive,
    expect=_expect,
    wait=_wait,
)
TMA: Final = Namespace(
    "tma",
    async_copy_global_to_shared=_load,
    async_copy_shared_to_global=lambda tensor_desc, coord, src: start_store(tensor_desc, coord, src),
    store_wait=lambda pendings: wait_for_stores(int(pendings)),
    make_tensor_descriptor=_make_descriptor,
)
HOPPER: Final = Namespace(
    "hopper",
    fence_async_shared=fence_async_shared,
    mbarrier=MBARRIER,
    tma=TMA,
    warpgroup_mma=warpgroup_mma,
    warpgroup_mma_init=warpgroup_mma_init,
    warpgroup_mma_wait=warpgroup_mma_wait,
    TensorDescriptor=Descriptor,
)
CORE: Final = Namespace("_core", builtin=_builtin)
LANGUAGE: Final = Namespace("gl", **{**vars(GL), "_core": CORE, "nvidia": Namespace("nvidia", hopper=HOPPER)})
GLUON: Final = Namespace(
    "gluon", jit=jit, constexpr_function=lambda function: function, language=LANGUAGE, constexpr=constexpr
)
TL: Final = Namespace("tl", **{**vars(GL), **TRITON_ONLY, "__name__": "tl"})
TRITON: Final = Namespace(
    "triton",
    jit=jit,
    cdiv=GL.cdiv,
    language=TL,
    experimental=Namespace("experimental", gluon=GLUON),
)

#: What a kernel's imports find.
MODULES: Final[dict[str, Namespace]] = {
    "triton": TRITON,
    "triton.language": TL,
    "triton.language.extra": GL.extra,
    "triton.language.extra.libdevice": LIBDEVICE_NAMESPACE,
    "triton.experimental": TRITON.experimental,
    "triton.experimental.gluon": GLUON,
    "triton.experimental.gluon.language": LANGUAGE,
    "triton.experimental.gluon.language._core": CORE,
    "triton.experimental.gluon.language.nvidia": LANGUAGE.nvidia,
    "triton.experimental.gluon.language.nvidia.hopper": HOPPER,
    "triton.experimental.gluon.nvidia.hopper": HOPPER,
    "triton._C.libtriton": Namespace(
        "libtriton", ir=Namespace("ir", DESCRIPTOR_REDUCE_KIND=Namespace("DESCRIPTOR_REDUCE_KIND", ADD="add"))
    ),
}

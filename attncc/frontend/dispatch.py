"""Who gets each torch call that a user's function makes while it is traced.

A call with traced values becomes expressions; one with captured tensors alone is done, and recorded to be done again in
every call; what reads numbers out of tensors, changes them, or draws at random is refused with its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from attncc.errors import AttnccError
from attncc.frontend import activations, reductions, refusals, torch_functions
from attncc.frontend.algebra import POINTWISE, Pointwise
from attncc.frontend.indexing import broadcast, common_shape, index
from attncc.frontend.places import is_augmented
from attncc.frontend.recorder import GUARDED, HERE, KNOWN, Recorder, plainly
from attncc.frontend.recordings import flattened, replaced
from attncc.frontend.refusals import shown, spelling
from attncc.frontend.shapes import STRUCTURED
from attncc.frontend.tracer import MAX_ELEMENTS, Tracer
from attncc.frontend.values import Gather, Grid, TracedInt, TracedTensor
from attncc.ir import Expr, const

AS_TORCH: Final = "call it as torch documents it, on single numbers"
SHOWN: Final = frozenset(("__repr__", "__format__", "__str__", "__dir__", "__hash__"))
NUMBERS: Final = frozenset(
    ("tensor", "as_tensor", "asarray", "scalar_tensor", "full", "full_like", "new_full", "new_tensor")
)
_TABLES: Final = (activations, reductions, torch_functions)  # importing them fills `POINTWISE` and `STRUCTURED`


class Dispatch(TorchFunctionMode):
    """Takes every torch call of a trace."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer
        self.recorder = Recorder(tracer)
        self.level = torch._C._functorch.maybe_current_level()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of a torch function."""
        named = dict(kwargs or {})
        name = spelling(func)
        leaves = flattened((args, named))
        traced = [leaf for leaf in leaves if isinstance(leaf, TracedTensor)]
        if any(leaf.tracing is not self.tracer for leaf in traced):
            self.tracer.refuse("this value belongs to a trace that is over", "a helper may not keep what it is given")
        if torch._C._functorch.maybe_current_level() != self.level:
            self.tracer.refuse("torch.vmap and its like cannot be compiled", "index the tensor, or write a loop")
        if name in refusals.RANDOM:
            if "dropout" not in name or (named.get("training", True) and named.get("p") != 0):
                refusals.refuse_random(self.tracer, name)
            return args[0]
        if not traced and not (name in NUMBERS and any(type(leaf) is TracedInt for leaf in leaves)):
            return self.recorder.call(func, name, args, named)
        if not torch.is_grad_enabled() and "::" not in name:
            hint = "detach a captured tensor instead, `t.detach()[h]`, and call torch's own functions"
            where = "torch.no_grad, or an autograd function"
            self.tracer.refuse(f"gradients are switched off here ({where}), which cannot be compiled", hint)
        return self._on_traced(func, name, args, named)

    # Calls with traced values.

    def _on_traced(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in refusals.READS:
            refusals.refuse_reading(self.tracer, name)
        if name in SHOWN:
            return _described(name, args[0])
        if name == "__getitem__":
            return self._index(args[0], args[1])
        if name in ("__eq__", "__ne__") and not _is_number(args[1]):
            return NotImplemented
        inner = self._augmented(name, args)
        if inner is not None:
            return inner
        refusals.refuse_writing(self.tracer, name, kwargs)
        if name in KNOWN or name in GUARDED:
            return self._about(name, args[0], args[1:])
        if name not in POINTWISE and name not in INDEXING and name not in STRUCTURED:
            refusals.refuse_unknown(self.tracer, name)
        with self.tracer.located():
            if name in POINTWISE:
                return self._pointwise(POINTWISE[name], func, name, args, kwargs)
            if name in INDEXING:
                return INDEXING[name](self, *args, **kwargs)
            return self._structured(func, name, args, kwargs)

    def _pointwise(
        self, row: Pointwise, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TracedTensor:
        early = self._before_indexing(func, args, kwargs)
        if early is not None:
            return early
        try:
            given = row.signature.bind(*args, **_renamed(kwargs, row)).arguments
        except TypeError as error:
            self.tracer.refuse(f"`{shown(name)}` is called in a way that cannot be compiled: {error}", AS_TORCH)
        if name == "prelu" and getattr(given["weight"], "shape", ()) == (1,):
            given["weight"] = self._index(given["weight"], 0)
        read = name in ("pow", "__pow__", "__rpow__", "float_power")  # a power that is known is a product
        operands = {
            key: self.grid(each, read) for key, each in given.items() if key in row.operands and each is not None
        }
        plain = {key: plainly(each) for key, each in given.items() if key not in operands}
        shape = common_shape(*(each.shape for each in operands.values()))
        wide = {key: broadcast(each, shape).items for key, each in operands.items()}
        try:
            items = _computed(row, wide, plain)
        except Exception:
            if not any(type(each) is TracedInt for each in given.values()):
                raise
            operands = {key: self.grid(given[key], True) for key in operands}
            items = _computed(row, {key: broadcast(each, shape).items for key, each in operands.items()}, plain)
        return self.tracer.wrap(*items, shape=shape)

    def _structured(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        early = self._before_indexing(func, args, kwargs) if name in CONVERTING else None
        early = self._permuted(name, args, kwargs) if name in PERMUTING else early
        if early is not None:
            return early

        def given(each: object) -> object:
            if isinstance(each, torch.Tensor):
                return self.grid(each, False)
            if type(each) is TracedInt:
                return self.grid(each, False) if name in NUMBERS else each.read()
            return each

        try:
            return STRUCTURED[name](self.tracer, *replaced(args, given), **replaced(kwargs, given))
        except AttnccError:
            raise
        except (TypeError, RuntimeError, IndexError, ValueError) as error:
            self.tracer.refuse(f"`{shown(name)}` is called in a way that cannot be compiled: {error}", AS_TORCH)

    def _before_indexing(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TracedTensor | None:
        """`f(t[b])` with too many elements to unroll is `f(t)[b]`, if nothing but `t` is traced."""
        tensors = [each for each in flattened((args, kwargs)) if isinstance(each, torch.Tensor)]
        if len(tensors) != 1 or not isinstance(tensors[0], TracedTensor):
            return None
        content = tensors[0].content
        if isinstance(content, Grid) or _count(content.shape) <= MAX_ELEMENTS:
            return None
        source = content.source.tensor

        def given(each: object) -> object:
            return source if each is tensors[0] else each

        made = self.recorder.record(func, spelling(func), replaced(args, given), replaced(kwargs, given))
        return self._gathered(Gather(self.tracer.source_of(made)[0], content.index))

    def _permuted(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TracedTensor | None:
        """`t[b].T` with too many elements to unroll: the dimensions of `t` change places before the index."""
        content = args[0].content if isinstance(args[0], TracedTensor) else None
        if not isinstance(content, Gather) or _count(content.shape) <= MAX_ELEMENTS:
            return None
        free = content.free
        # Each size tells which dimension it came from.
        probe = torch.empty(tuple(range(2, 2 + len(free))), device="meta")
        kind, _, attribute = name.rpartition(" ")
        moved = getattr(probe, attribute)
        shape = (moved if kind else moved(*args[1:], **kwargs)).shape
        order = list(range(len(content.index)))
        for dim, size in zip(free, shape, strict=True):
            order[dim] = free[size - 2]
        made = self.recorder.record(torch.permute, "permute", (content.source.tensor, tuple(order)), {})
        return self._gathered(Gather(self.tracer.source_of(made)[0], content.index))

    def _index(self, value: torch.Tensor, key: Any) -> TracedTensor:
        if isinstance(value, TracedTensor):
            content = value.content
        else:
            content = self.tracer.source_of(value)[1]

        def record(tensor: torch.Tensor, plain: Any) -> torch.Tensor:
            made: torch.Tensor = self.recorder.record(torch.Tensor.__getitem__, "__getitem__", (tensor, plain), {})
            return made

        return self._gathered(index(self.tracer, content, key, record))

    def _gathered(self, found: Grid | Gather) -> TracedTensor:
        """What an index selects, as a traced tensor; a single element is read at once."""
        if isinstance(found, Gather):
            dtype = found.source.tensor.dtype
            if found.free:
                return TracedTensor.make(self.tracer, found, dtype)
            return self.tracer.wrap(*self.tracer.elements(found).items, dtype=dtype)
        return self.tracer.wrap(*found.items, shape=found.shape)

    def grid(self, value: Any, read: bool) -> Grid:
        """An operand as an array of expressions."""
        if isinstance(value, TracedTensor):
            return value.content if isinstance(value.content, Grid) else self.tracer.elements(value.content)
        if isinstance(value, torch.Tensor):
            return self._captured(value)
        if type(value) is TracedInt:
            return Grid((), (const(value.read()) if read else value.expr,))
        if isinstance(value, complex):
            self.tracer.refuse("attncc computes with real numbers, but this is complex", "use its real part, `z.real`")
        if not _is_number(value):
            message = f"a traced value and a {type(value).__name__} cannot be computed with"
            self.tracer.refuse(message, "use a number or a tensor")
        return Grid((), (const(value.item() if hasattr(value, "item") else value),))

    def _captured(self, value: torch.Tensor) -> Grid:
        source, gather = self.tracer.source_of(value)
        if value.dim() and value.numel() == 1 and not source.constant:
            zeros = ", ".join("0" * value.dim())
            message = f"`{source.name}` has shape {list(value.shape)}, but is used as a number"
            self.tracer.refuse(message, f"write `{source.name}[{zeros}]`")
        return self.tracer.elements(gather)

    def _about(self, name: str, value: TracedTensor, args: tuple[Any, ...]) -> Any:
        """A question about a traced tensor that its shape and kind answer."""
        content = value.content
        if isinstance(content, Gather) and name in GUARDED:
            for dim in content.free:
                self.tracer.guard_size(content.source, dim)
        if name == "get device":
            return HERE
        if name in ("get requires_grad", "get is_leaf"):
            return name == "get is_leaf"
        if name == "__len__" and not content.shape:
            hint = "`score` and the indices are single numbers, of one pair; for lengths ask for q_len and kv_len"
            self.tracer.refuse("a single number has no length, and cannot be iterated over", hint)
        stand_in = torch.empty(content.shape, dtype=value.declared, device="cpu")
        kind, _, attribute = name.rpartition(" ")
        found = getattr(stand_in, attribute)
        return found if kind else found(*args)

    def _augmented(self, name: str, args: tuple[Any, ...]) -> Any:
        """`x += y` on a traced value: the value changes, as it does in torch."""
        base = AUGMENTED.get(name)
        frame = self.tracer.places.frame()
        if base is None or frame is None or not isinstance(args[0], TracedTensor) or not is_augmented(frame):
            return None
        target = args[0]
        made: TracedTensor = self._pointwise(POINTWISE[base], None, base, args, {})
        old, new = self.grid(target, False), self.grid(made, False)
        if old.shape != new.shape or max(each.scalar for each in new.items) > max(each.scalar for each in old.items):
            self.tracer.refuse("the result does not fit into the value that is changed", "write `x = x + y`")
        target.content = new
        return target


def _described(name: str, value: TracedTensor) -> Any:
    """What Python shows of a traced value."""
    kinds = {torch.bool: "bool", torch.int64: "int"}
    return id(value) if name == "__hash__" else f"<traced {kinds.get(value.declared, 'float')}>"


def _is_number(value: object) -> bool:
    if isinstance(value, torch.Tensor | bool | int | float | complex):
        return True
    return hasattr(value, "dtype") and getattr(value, "shape", None) == ()  # a numpy scalar


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _computed(row: Pointwise, operands: dict[str, tuple[Expr, ...]], plain: dict[str, Any]) -> list[Expr]:
    rows = zip(*operands.values(), strict=True)
    return [row.compute(**dict(zip(operands, each, strict=True)), **plain) for each in rows]


def _renamed(kwargs: dict[str, Any], row: Pointwise) -> dict[str, Any]:
    """Keyword arguments under the names of the table; those that say nothing about the meaning are left out."""
    return {
        "input" if key == "self" else key: value
        for key, value in kwargs.items()
        if not (key == "out" and value is None)
    }


def _embedding(dispatch: Dispatch, input: Any, weight: Any, *_: Any, **__: Any) -> TracedTensor:
    return dispatch._index(weight, input)


def _index_select(dispatch: Dispatch, input: Any, dim: int, index: Any) -> TracedTensor:
    content = input.content if isinstance(input, TracedTensor) else dispatch.tracer.source_of(input)[1]
    return dispatch._index(input, (slice(None),) * (dim % len(content.shape)) + (index,))


def _take(dispatch: Dispatch, input: Any, index: Any) -> TracedTensor:
    flat = dispatch.recorder.record(torch.flatten, "flatten", (input,), {})
    return dispatch._index(flat, index)


#: Functions that are an index by another name.
INDEXING: Final[dict[str, Callable[..., TracedTensor]]] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "select": _index_select,
    "take": _take,
}
AUGMENTED: Final = {
    **{f"{name}_": name for name in ("add", "sub", "mul", "div", "floor_divide", "remainder", "pow")},
    **{f"__i{name}__": f"__{name}__" for name in ("add", "sub", "mul", "floordiv", "mod", "pow", "and", "or", "xor")},
    **{f"__i{name}__": f"__{name}__" for name in ("lshift", "rshift", "truediv")},
    **{f"bitwise_{name}_": f"bitwise_{name}" for name in ("and", "or", "xor", "left_shift", "right_shift")},
}
#: Functions of one tensor, element by element, beside those of `POINTWISE`.
CONVERTING: Final = frozenset(
    ("to", "float", "double", "half", "bfloat16", "int", "long", "bool", "type", "clone", "contiguous")
)
PERMUTING: Final = frozenset(("get T", "get mT", "t", "transpose", "permute", "swapaxes", "swapdims", "movedim"))

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
from attncc.frontend import activations, refusals, shapes, torch_functions
from attncc.frontend.algebra import POINTWISE, Pointwise
from attncc.frontend.indexing import broadcast, common_shape, index
from attncc.frontend.places import bound_name, is_augmented
from attncc.frontend.recordings import Here, Number, Source, Step, flattened, replaced
from attncc.frontend.tracer import MAX_ELEMENTS, Tracer
from attncc.frontend.values import Gather, Grid, TracedInt, TracedTensor
from attncc.ir import Expr, const

#: What `x.device` gives for a traced value: a device that no tensor of the user's is on.
HERE: Final = torch.device("meta")
#: Questions about a tensor that its dtype and rank answer, which every trace depends on anyway.
KNOWN: Final = frozenset(
    ("dim", "ndimension", "get ndim", "get dtype", "is_floating_point", "is_complex", "get is_nested")
)
#: Questions about a tensor whose answer the trace then depends on.
GUARDED: Final = frozenset(
    (
        *("get shape", "size", "numel", "nelement", "__len__", "stride", "is_contiguous", "get device", "get layout"),
        *(
            "get requires_grad",
            "get is_cuda",
            "get is_cpu",
            "element_size",
            "get itemsize",
            "get nbytes",
            "get is_leaf",
        ),
        *("storage_offset", "get is_sparse", "get is_meta", "get is_quantized", "get_device", "is_inference"),
    )
)
SETTINGS: Final = frozenset(("_set_grad_enabled", "set_grad_enabled"))
SHOWN: Final = frozenset(("__repr__", "__format__", "__str__", "__dir__", "__hash__"))
NUMBERS: Final = frozenset(
    ("tensor", "as_tensor", "asarray", "scalar_tensor", "full", "full_like", "new_full", "new_tensor")
)
_TABLES: Final = (activations, torch_functions)  # importing them fills `POINTWISE`


class Dispatch(TorchFunctionMode):
    """Takes every torch call of a trace."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer
        self.done: dict[object, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of a torch function."""
        named = dict(kwargs or {})
        name = spelling(func)
        leaves = flattened((args, named))
        traced = [leaf for leaf in leaves if isinstance(leaf, TracedTensor)]
        if any(leaf.tracing is not self.tracer for leaf in traced):
            self.tracer.refuse("this value belongs to a trace that is over", "a helper may not keep what it is given")
        if name in refusals.RANDOM:
            if "dropout" not in name or (named.get("training", True) and named.get("p") != 0):
                self._refuse_random(name)
            return args[0]
        if not traced and not (name in NUMBERS and any(type(leaf) is TracedInt for leaf in leaves)):
            return self._on_captures(func, name, args, named)
        if not torch.is_grad_enabled() and "::" not in name:
            hint = "detach a captured tensor instead, `t.detach()[h]`, and call torch's own functions"
            message = "gradients are switched off here (torch.no_grad, or an autograd function), which cannot be compiled"
            self.tracer.refuse(message, hint)
        return self._on_traced(func, name, args, named)

    # Calls with traced values.

    def _on_traced(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in refusals.READS:
            return self._refuse_reading(name, args)
        if name in SHOWN:
            return self._shown(name, func, args)
        if name == "__getitem__":
            return self._index(args[0], args[1])
        if name in ("__eq__", "__ne__") and not _is_number(args[1]):
            return NotImplemented
        inner = self._augmented(name, args)
        if inner is not None:
            return inner
        self._refuse_writing(name, kwargs)
        if name in KNOWN or name in GUARDED:
            return self._about(name, args[0], args[1:])
        with self.tracer.located():
            if name in POINTWISE:
                return self._pointwise(POINTWISE[name], func, name, args, kwargs)
            if name in INDEXING:
                return INDEXING[name](self, *args, **kwargs)
            if name in shapes.STRUCTURED:
                return self._structured(func, name, args, kwargs)
        return self._refuse_unknown(func, name)

    def _pointwise(
        self, row: Pointwise, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TracedTensor:
        early = self._before_indexing(func, args, kwargs)
        if early is not None:
            return early
        try:
            given = row.signature.bind(*args, **_renamed(kwargs, row)).arguments
        except TypeError as error:
            self.tracer.refuse(f"`{shown(name)}` is called in a way that cannot be compiled: {error}")
        read = name in ("pow", "__pow__", "__rpow__", "float_power")  # a power that is known is a product
        operands = {
            key: self.grid(each, read) for key, each in given.items() if key in row.operands and each is not None
        }
        plain = {key: self._plain(each) for key, each in given.items() if key not in operands}
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
        if name in CONVERTING or name in ("clone", "contiguous"):
            early = self._before_indexing(func, args, kwargs)
            if early is not None:
                return early

        def given(each: object) -> object:
            if isinstance(each, torch.Tensor):
                return self.grid(each, False)
            if type(each) is TracedInt:
                return self.grid(each, False) if name in NUMBERS else each.read()
            return each

        try:
            return shapes.STRUCTURED[name](self.tracer, *replaced(args, given), **replaced(kwargs, given))
        except AttnccError:
            raise
        except (TypeError, RuntimeError, IndexError, ValueError) as error:
            self.tracer.refuse(f"`{shown(name)}` is called in a way that cannot be compiled: {error}")

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

        made = self._record(func, spelling(func), replaced(args, given), replaced(kwargs, given))
        return self._gathered(Gather(self.tracer.source_of(made)[0], content.index))

    def _index(self, value: torch.Tensor, key: Any) -> TracedTensor:
        if isinstance(value, TracedTensor):
            content = value.content
        else:
            content = self.tracer.source_of(value)[1]

        def record(tensor: torch.Tensor, plain: Any) -> torch.Tensor:
            made: torch.Tensor = self._record(torch.Tensor.__getitem__, "__getitem__", (tensor, plain), {})
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
            self.tracer.refuse("attncc computes with real numbers, but this is complex")
        if not _is_number(value):
            self.tracer.refuse(f"a traced value and a {type(value).__name__} cannot be computed with")
        return Grid((), (const(value.item() if hasattr(value, "item") else value),))

    def _captured(self, value: torch.Tensor) -> Grid:
        source, gather = self.tracer.source_of(value)
        if value.dim() and value.numel() == 1 and not source.constant:
            zeros = ", ".join("0" * value.dim())
            message = f"`{source.name}` has shape {list(value.shape)}, but is used as a number"
            self.tracer.refuse(message, f"write `{source.name}[{zeros}]`")
        return self.tracer.elements(gather)

    def _plain(self, value: Any) -> Any:
        return value.read() if type(value) is TracedInt else value

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
            self.tracer.refuse("a single number has no length, and cannot be iterated over")
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

    # Calls with captured tensors alone.

    def _on_captures(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in SETTINGS:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in flattened((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self._refuse_writing(name, kwargs)
        known = [self.tracer.source_of(tensor)[0] for tensor in tensors]
        if name in refusals.READS and not all(source.constant for source in known):
            return self._refuse_value(name, next(source for source in known if not source.constant))
        if name in KNOWN:
            return func(*args, **kwargs)
        if name in GUARDED:
            plain = replaced(args, self._plain)
            value = func(*plain, **kwargs)
            self.tracer.guard(known[0], name, func, (*plain[1:], *kwargs.values()), value)
            return value
        return self._record(func, name, args, kwargs)

    def _record(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do an operation and note how it is done again; an equal one that was done before is not repeated."""
        inputs: list[Source] = []
        numbers: list[Expr] = []

        def noted(each: object) -> object:
            if isinstance(each, torch.Tensor):
                inputs.append(self.tracer.source_of(each)[0])
                return inputs[-1]
            if type(each) is TracedInt:
                numbers.append(each.expr)
                return Number(each.expr)
            return Here() if isinstance(each, torch.device) and each == HERE else each

        steps_args, steps_kwargs = replaced(args, noted), replaced(kwargs, noted)
        grad = torch.is_grad_enabled()
        key = _key((func, steps_args, steps_kwargs, grad))
        if key is not None and key in self.done:
            return self.done[key]
        device = inputs[0].tensor.device if inputs else torch.device("cpu")

        def real(each: object) -> object:
            if type(each) is TracedInt:
                return each.value
            return device if isinstance(each, torch.device) and each == HERE else each

        with torch.no_grad():
            result = func(*replaced(args, real), **replaced(kwargs, real))
        if key is not None:
            self.done[key] = result
        made = [leaf for leaf in flattened(result) if isinstance(leaf, torch.Tensor)]
        if not made:
            return self._plain_result(result, inputs, numbers, name)
        step = Step(func, steps_args, steps_kwargs, grad, tuple(inputs), tuple(numbers), self._is_dependent(name, args))
        return self._known(result, step, name, args)

    def _known(self, result: Any, step: Step, name: str, args: tuple[Any, ...]) -> Any:
        """Take up the tensors of a result; of an index of numbers, as elements of the tensor that is indexed."""
        title = self._title(name, step.inputs)
        if isinstance(result, torch.Tensor):
            if any(result is source.tensor for source in step.inputs):
                return result
            gather = self._elements(args) if name == "__getitem__" else None
            return self.tracer.know(Source(result, title, step=step), gather)

        def take(value: Any, path: tuple[int, ...]) -> None:
            if isinstance(value, torch.Tensor):
                self.tracer.know(Source(value, f"{title}{path[-1]}", step=step, path=path))
            elif isinstance(value, list | tuple):
                for i, each in enumerate(value):
                    take(each, (*path, i))

        take(result, ())
        return result

    def _elements(self, args: tuple[Any, ...]) -> Gather | None:
        tensor, key = args
        parts = key if isinstance(key, tuple) else (key,)
        if not all(type(part) in (int, TracedInt) or part is Ellipsis or part == slice(None) for part in parts):
            return None

        def record(*_: Any) -> torch.Tensor:
            raise AssertionError("an index of numbers records nothing")

        found = index(self.tracer, self.tracer.source_of(tensor)[1], key, record)
        return found if isinstance(found, Gather) else None

    def _title(self, name: str, inputs: list[Source] | tuple[Source, ...]) -> str:
        """What a recorded result is called: its variable, or what it is made from."""
        frame = self.tracer.places.frame()
        bound = bound_name(frame) if frame is not None else None
        plain = name.removeprefix("get ").strip("_")
        if bound is not None:
            return bound
        if not inputs:
            return plain
        return inputs[0].name if plain == "getitem" else f"{inputs[0].name}_{plain}"

    def _is_dependent(self, name: str, args: tuple[Any, ...]) -> bool:
        if name in refusals.DEPENDENT:
            return True
        masks = [each for each in flattened(args[1:]) if isinstance(each, torch.Tensor) and each.dtype is torch.bool]
        return name == "__getitem__" and bool(masks)

    def _plain_result(self, result: Any, inputs: list[Source], numbers: list[Expr], name: str) -> Any:
        """A result without tensors: what it was made from is then a part of what the trace depends on."""
        for number in numbers:
            self.tracer.specialize(number)
        if any(not source.constant for source in inputs) and result is not None:
            self.tracer.opaque = self.tracer.opaque or f"`{shown(name)}` reads a captured tensor"
        return result

    # Refusals.

    def _refuse_random(self, name: str) -> None:
        if name in refusals.UNSET:
            self.tracer.refuse(f"`{shown(name)}` makes a tensor without values", "use `zeros`, `ones` or `full`")
        hint = "draw the numbers before the call, and capture the tensor"
        self.tracer.refuse(f"`{shown(name)}` gives other numbers each time, which a kernel cannot", hint)

    def _refuse_writing(self, name: str, kwargs: dict[str, Any]) -> None:
        if name in ("__setitem__", "__delitem__", "index_put") or name.startswith("set "):
            hint = "compute a new value: `torch.where(condition, new, old)`"
            self.tracer.refuse("a score or mask function may not write into a tensor", hint)
        changes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if changes or name in ("__iadd__", "backward", "copy_"):
            plain = name.rstrip("_")
            hint = f"write `x = x.{plain}(…)`"
            self.tracer.refuse(f"`{name}` changes its tensor, which a score or mask function may not do", hint)
        if kwargs.get("out") is not None:
            self.tracer.refuse("`out=` writes into a tensor, which a score or mask function may not do")

    def _refuse_reading(self, name: str, args: tuple[Any, ...]) -> Any:
        span = self.tracer.places.span(self.tracer.places.frame())
        asked = refusals.truth(span) if name in ("__bool__", "is_nonzero") else refusals.conversion(name, span)
        message, hint, place = asked
        raise refusals.error(message, place, hint)

    def _refuse_value(self, name: str, source: Source) -> Any:
        plain = {"__bool__": "bool", "__int__": "int", "__float__": "float", "__index__": "int"}.get(
            name, name.strip("_")
        )
        hint = f"use the tensor itself: `{source.name}` is read anew in each call"
        self.tracer.refuse(
            f"`{plain}` reads the value of `{source.name}` while the kernel is made, not when it runs", hint
        )

    def _refuse_unknown(self, func: Any, name: str) -> Any:
        if "::" in name:
            self.tracer.refuse(
                f"the custom operator `{name}` cannot be compiled", "write it with torch's own functions"
            )
        if name.startswith("get "):
            self.tracer.refuse(f"a traced value has no `{name[4:]}` that could be compiled")
        self.tracer.refuse(f"`{shown(name)}` cannot be compiled into a score or mask", refusals.nearest(name))

    def _shown(self, name: str, func: Any, args: tuple[Any, ...]) -> Any:
        if name == "__hash__":
            return id(args[0])
        kinds = {torch.bool: "bool", torch.int64: "int"}
        return f"<traced {kinds.get(args[0].declared, 'float')}>"


def spelling(func: Any) -> str:
    """The name of a torch function: `get x` of an attribute, `space::name` of a custom operator."""
    name = getattr(func, "__name__", None) or str(func)
    if name in ("__get__", "__set__"):
        return f"{name.strip('_')} {func.__self__.__name__}"
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        packet = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
        space, _, plain = str(packet).rpartition(".")
        return plain if space in ("aten", "prims") else f"{space}::{plain}"
    return str(name)


def shown(name: str) -> str:
    """A torch function as users write it."""
    if name.startswith("get "):
        return f".{name[4:]}"
    return name if name.startswith("__") or "::" in name else f"torch.{name}"


def _key(value: Any) -> object:
    """Nested arguments of a call as one value that equal calls share; None where that cannot be told."""
    if isinstance(value, list | tuple):
        parts = tuple(_key(each) for each in value)
        return None if None in parts else (type(value), parts)
    if isinstance(value, dict):
        return _key([[key, each] for key, each in value.items()])
    if isinstance(value, slice):
        return _key([slice, value.start, value.stop, value.step])
    if isinstance(value, float):
        return float, value.hex()
    return (type(value), value) if type(value).__hash__ is not None else None


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
    return {"input" if key == "self" else key: value for key, value in kwargs.items() if not (key == "out" and value is None)}


def _embedding(dispatch: Dispatch, input: Any, weight: Any, *_: Any, **__: Any) -> TracedTensor:
    return dispatch._index(weight, input)


def _index_select(dispatch: Dispatch, input: Any, dim: int, index: Any) -> TracedTensor:
    content = input.content if isinstance(input, TracedTensor) else dispatch.tracer.source_of(input)[1]
    return dispatch._index(input, (slice(None),) * (dim % len(content.shape)) + (index,))


def _take(dispatch: Dispatch, input: Any, index: Any) -> TracedTensor:
    flat = dispatch._record(torch.flatten, "flatten", (input,), {})
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
CONVERTING: Final = frozenset(("to", "float", "double", "half", "bfloat16", "int", "long", "bool", "type"))

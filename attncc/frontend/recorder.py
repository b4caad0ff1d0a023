"""Calls with captured tensors alone: done at once, and recorded to be done again in every call of the kernel.

What they tell about a tensor without its numbers (its shape, where it needs gradients) is guarded: the trace holds only
while the answer stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from attncc.frontend import refusals
from attncc.frontend.indexing import index, is_whole
from attncc.frontend.places import bound_name
from attncc.frontend.recordings import Here, Number, Source, Step, flattened, gradients, replaced
from attncc.frontend.tracer import Tracer
from attncc.frontend.values import Gather, TracedInt
from attncc.ir import Expr

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
        *("get requires_grad", "get is_leaf", "get is_cuda", "get is_cpu", "get is_meta", "get_device"),
        *("element_size", "get itemsize", "get nbytes", "storage_offset", "is_inference"),
        *("get is_sparse", "get is_quantized"),
    )
)
SETTINGS: Final = frozenset(("_set_grad_enabled", "set_grad_enabled"))


class Recorder:
    """What was done to the captured tensors of one trace."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.done: dict[object, Any] = {}

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call without traced values."""
        if name in SETTINGS:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in flattened((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        refusals.refuse_writing(self.tracer, name, kwargs)
        known = [self.tracer.source_of(tensor)[0] for tensor in tensors]
        if name in refusals.READS and not all(source.constant for source in known):
            refusals.refuse_value(self.tracer, name, next(each for each in known if not each.constant))
        if name in KNOWN:
            return func(*args, **kwargs)
        if name in GUARDED:
            plain = replaced(args, plainly)
            value = func(*plain, **kwargs)
            self.tracer.guard(known[0], name, func, (*plain[1:], *kwargs.values()), value)
            return value
        return self.record(func, name, args, kwargs)

    def record(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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

        with gradients(False):
            result = func(*replaced(args, real), **replaced(kwargs, real))
        step = Step(func, steps_args, steps_kwargs, grad, tuple(inputs), tuple(numbers), _is_dependent(name, args))
        if any(isinstance(leaf, torch.Tensor) for leaf in flattened(result)):
            result = self._known(result, step, name, args)
        else:
            self._depend(step, result, name)
        if key is not None:
            self.done[key] = result
        return result

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
        if not all(type(part) in (int, TracedInt) or part is Ellipsis or is_whole(part) for part in parts):
            return None

        def record(*_: Any) -> torch.Tensor:
            raise AssertionError("an index of numbers records nothing")

        found = index(self.tracer, self.tracer.source_of(tensor)[1], key, record)
        return found if isinstance(found, Gather) else None

    def _title(self, name: str, inputs: Sequence[Source]) -> str:
        """What a recorded result is called: its variable, or what it is made from."""
        frame = self.tracer.places.frame()
        bound = bound_name(frame) if frame is not None else None
        plain = name.removeprefix("get ").strip("_")
        if bound is not None:
            return bound
        if not inputs:
            return plain
        return inputs[0].name if plain == "getitem" else f"{inputs[0].name}_{plain}"

    def _depend(self, step: Step, result: Any, name: str) -> None:
        """A result without tensors: what it was made from is then a part of what the trace depends on."""
        for number in step.numbers:
            self.tracer.specialize(number)
        if any(not source.constant for source in step.inputs) and result is not None:
            self.tracer.opaque = self.tracer.opaque or f"`{refusals.shown(name)}` reads a captured tensor"


def plainly(value: Any) -> Any:
    """A number from the surroundings as a plain one, which makes it a constant."""
    return value.read() if type(value) is TracedInt else value


def _is_dependent(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the shape of a result depends on the values of what goes in."""
    if name in refusals.DEPENDENT:
        return True
    masks = [each for each in flattened(args[1:]) if isinstance(each, torch.Tensor) and each.dtype is torch.bool]
    return name == "__getitem__" and bool(masks)


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

"""Operations on captured tensors alone: recorded while tracing, run again in each call, under autograd.

`Source` is a tensor that a trace knows: one that the user's function reaches, or the result of a recorded `Step`. A
`Program` is what is left of them when the trace is over: it holds functions and positions, and no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from attncc.ir import Expr, evaluate


@contextmanager
def gradients(enabled: bool) -> Iterator[None]:
    """Have autograd look on or not; a graph that torch.export makes meanwhile does not hear of it."""
    before = torch.is_grad_enabled()
    _set_gradients(enabled)
    try:
        yield
    finally:
        _set_gradients(before)


def _set_gradients(enabled: bool) -> None:
    with torch._C.DisableTorchFunction():
        torch._C._set_grad_enabled(enabled)


@dataclass(frozen=True, slots=True)
class Slot:
    """An argument of a recorded step: the tensor at this place of the run, or a part of a result of several."""

    index: int
    path: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Number:
    """An argument of a recorded step that is a number from the user's surroundings."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Here:
    """An argument of a recorded step that is the device of the queries."""


@dataclass(slots=True, eq=False)
class Step:
    """One operation on captured tensors; `args` holds `Source`, `Number` and `Here` where the call had the like."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    grad: bool
    inputs: tuple[Source, ...]
    numbers: tuple[Expr, ...]
    dependent: bool  # whether the shape of the result depends on the values of its inputs


@dataclass(slots=True, eq=False)
class Source:
    """A tensor that a trace knows. `leaf` is its position in the walk; `step` and `path` say what computes it."""

    tensor: torch.Tensor
    name: str
    leaf: int | None = None
    step: Step | None = None
    path: tuple[int, ...] = ()
    frozen: bool = False

    def steps(self) -> list[Step]:
        """Every step that computes this tensor, inputs first."""
        order: dict[Step, None] = {}
        stack: list[tuple[Step, bool]] = [(self.step, False)] if self.step is not None else []
        while stack:
            step, done = stack.pop()
            if done:
                order.setdefault(step)
            elif step not in order:
                stack.append((step, True))
                stack += [(each.step, False) for each in step.inputs if each.step is not None]
        return list(order)

    def leaves(self) -> list[Source]:
        """The tensors from the user's surroundings that this one depends on."""
        if self.step is None:
            return [self]
        found = {each: None for step in self.steps() for each in step.inputs if each.step is None}
        return list(found)

    def numbers(self) -> list[Expr]:
        """The numbers from the user's surroundings that this tensor depends on."""
        return [number for step in self.steps() for number in step.numbers]

    @property
    def constant(self) -> bool:
        """Whether it is the same in every call: it depends on nothing from the surroundings."""
        return self.step is not None and not self.leaves() and not self.numbers()


@dataclass(frozen=True, slots=True)
class Instruction:
    """A step of a program: its arguments hold `Slot`, `Number` and `Here`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    grad: bool

    def run(self, values: Sequence[Any], numbers: Mapping[str, int], device: torch.device) -> Any:
        """The result, given those of the instructions before."""

        def given(argument: object) -> object:
            match argument:
                case Slot():
                    return pick(values[argument.index], argument.path)
                case Number():
                    return evaluate(argument.expr, numbers)
                case Here():
                    return device
            return argument

        args, kwargs = replaced(self.args, given), replaced(dict(self.kwargs), given)
        if self.grad or not torch.is_grad_enabled():
            return self.function(*args, **kwargs)
        with torch.no_grad():
            return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Program:
    """How the tensors that a kernel reads are made from those that the user's functions reach."""

    leaves: tuple[int, ...] = ()
    frozen: tuple[torch.Tensor, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    results: tuple[Slot, ...] = ()

    def run(
        self, reached: Sequence[torch.Tensor], numbers: Mapping[str, int], device: torch.device | None
    ) -> tuple[torch.Tensor, ...]:
        """The tensors that the kernel reads, in the order of the spec's captures."""
        values: list[Any] = [reached[i] for i in self.leaves]
        values += self.frozen
        if self.instructions:
            here = device or next((value.device for value in values), torch.device("cpu"))
            for instruction in self.instructions:
                values.append(instruction.run(values, numbers, here))
        return tuple(pick(values[slot.index], slot.path) for slot in self.results)


def compose(results: Sequence[Source]) -> Program:
    """The program that computes these sources, each step once."""
    steps = list(dict.fromkeys(step for result in results for step in result.steps()))
    bases = list(dict.fromkeys(leaf for result in results for leaf in result.leaves()))
    held = [base for base in bases if base.leaf is not None]
    frozen = [base for base in bases if base.leaf is None]
    at: dict[object, int] = {each: i for i, each in enumerate((*held, *frozen, *steps))}

    def slot(argument: object) -> object:
        if isinstance(argument, Source):
            return Slot(at[argument.step or argument], argument.path)
        return argument

    instructions = tuple(
        Instruction(step.function, replaced(step.args, slot), replaced(step.kwargs, slot), step.grad) for step in steps
    )
    outputs = tuple(Slot(at[result.step or result], result.path) for result in results)
    leaves = tuple(base.leaf for base in held if base.leaf is not None)
    return Program(leaves, tuple(base.tensor for base in frozen), instructions, outputs)


def pick(value: Any, path: Iterable[int]) -> Any:
    """A part of a nested result."""
    for index in path:
        value = value[index]
    return value


def replaced(value: Any, by: Callable[[object], object]) -> Any:
    """Nested arguments of a call with each leaf replaced."""
    if isinstance(value, dict):
        return {key: replaced(each, by) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(replaced(each, by) for each in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(each, by) for each in value))
    if isinstance(value, tuple) and hasattr(value, "n_fields"):  # what torch gives back with named parts
        return type(value)([replaced(each, by) for each in value])
    if isinstance(value, slice):
        return slice(replaced(value.start, by), replaced(value.stop, by), replaced(value.step, by))
    return by(value)


def flattened(value: Any) -> list[Any]:
    """Every leaf of nested arguments of a call."""
    found: list[Any] = []

    def note(leaf: object) -> object:
        found.append(leaf)
        return leaf

    replaced(value, note)
    return found

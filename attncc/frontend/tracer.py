"""The state of one trace: what expressions were made and where, what was captured, and what the result depends on.

The tracer knows nothing of single torch functions (`torch_functions`) nor of who calls it (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, Final, NoReturn

import torch

from attncc.errors import AttnccError, LanguageError, UnsupportedError
from attncc.frontend.places import Places, bound_name
from attncc.frontend.recordings import Source
from attncc.frontend.values import DTYPES, Gather, Grid, TracedInt, TracedTensor
from attncc.ir import ANY_DIM, Capture, Expr, Op, Origin, Scalar, apply, const, load, param, postorder
from attncc.ir.syntax import free_name
from attncc.source import Span

MAX_DEPTH: Final = 5_000
#: The largest array of expressions: what is unrolled in a kernel.
MAX_ELEMENTS: Final = 64
INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Guard = tuple[int, Callable[..., Any], tuple[Any, ...], Any]


class Tracer:
    """One trace of a score and a mask function."""

    def __init__(
        self, boundary: CodeType, tensors: list[torch.Tensor], names: list[str], pinned: frozenset[int]
    ) -> None:
        self.active = True
        self.places = Places(boundary)
        self.origins: dict[Expr, Origin] = {}
        self.depths: dict[Expr, int] = {}
        self.captures: list[Capture] = []
        self.sources: list[Source] = []
        self.parameters: dict[str, tuple[int, int]] = {}  # name: position in the walk, value
        self.pinned = pinned
        self.specialized: set[int] = set()
        self.guards: dict[tuple[int, str], Guard] = {}
        self.opaque: str | None = None
        self.known: dict[int, tuple[Source, Gather]] = {}
        self._loaded: dict[object, str] = {}
        self._held: list[torch.Tensor] = []
        self._taken: set[str] = set()
        for i, (tensor, name) in enumerate(zip(tensors, names, strict=True)):
            self.know(Source(tensor, name, leaf=i))

    # Places and errors.

    def refusal(self, message: str, hint: str | None = None, *, limit: bool = False) -> AttnccError:
        """A LanguageError (UnsupportedError at a limit of ours) at the place where the user's code stands."""
        error = UnsupportedError if limit else LanguageError
        return error(message, self.places.span(self.places.frame()), hint)

    def refuse(self, message: str, hint: str | None = None, *, limit: bool = False) -> NoReturn:
        """Raise a refusal."""
        raise self.refusal(message, hint, limit=limit)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Give errors without a place the place where the user's code stands."""
        try:
            yield
        except AttnccError as error:
            if error.span is not None:
                raise
            raise type(error)(error.message, self.places.span(self.places.frame()), error.hint) from None

    # Expressions.

    def apply(self, op: Op, *operands: Expr) -> Expr:
        """An operation, with its place noted."""
        with self.located():
            return self.note(apply(op, *operands))

    arithmetic = apply

    def note(self, *roots: Expr) -> Expr:
        """Note the place of every part of an expression that is new; the expression."""
        fresh = _unseen(roots, self.depths)
        if fresh:
            frame = self.places.frame()
            span = self.places.span(frame)
            name = bound_name(frame) if frame is not None and len(roots) == 1 else None
            for expr in fresh:
                depth = 1 + max((self.depths[arg] for arg in expr.args), default=0)
                self.depths[expr] = depth
                if depth > MAX_DEPTH:
                    self._too_deep(span)
                if expr.op not in (Op.CONST, Op.INPUT, Op.PARAM):
                    self.origins[expr] = Origin(span, name if expr is roots[0] else None)
        return roots[0]

    def _too_deep(self, span: Span | None) -> NoReturn:
        hint = "a loop that runs this often belongs in a captured tensor, computed before the call"
        raise UnsupportedError(f"this expression is more than {MAX_DEPTH:,} operations deep", span, hint)

    def wrap(self, *exprs: Expr, shape: tuple[int, ...] = (), dtype: torch.dtype | None = None) -> TracedTensor:
        """Expressions as the tensor that the user's function gets."""
        if exprs:
            self.note(*exprs)
        kind = max((expr.scalar for expr in exprs), default=Scalar.FLOAT)
        return TracedTensor.make(self, Grid(shape, exprs), dtype or DTYPES[kind])

    # Numbers from the surroundings.

    def number(self, position: int, value: int, name: str) -> object:
        """What stands for a number of the user's surroundings: itself, once its plain value was read."""
        if position in self.pinned:
            return value
        return TracedInt(self, value, position=position, name=name)

    def parameter(self, position: int, value: int, name: str) -> Expr:
        """The parameter of a number, named after its variable."""
        for known, (at, _) in self.parameters.items():
            if at == position:
                return param(known)
        unique = self.unique(name)
        self.parameters[unique] = position, value
        return param(unique)

    def specialize(self, number: Expr | int) -> None:
        """Make a number, by its position, or the numbers of an expression constants."""
        if isinstance(number, int):
            self.specialized.add(number)
            return
        for each in postorder(number):
            if each.op is Op.PARAM:
                self.specialized.add(self.parameters[str(each.value)][0])

    def unique(self, wanted: str) -> str:
        """A name that no capture, parameter or argument of a call has."""
        name = free_name(wanted.lstrip("_") or wanted, self._taken)
        self._taken.add(name)
        return name

    # Tensors from the surroundings.

    def know(self, source: Source, gather: Gather | None = None) -> torch.Tensor:
        """Take a tensor up; `gather` where it is some elements of one that is known."""
        tensor = source.tensor
        self._held.append(tensor)
        self.known[id(tensor)] = source, gather or Gather(source, (None,) * tensor.dim())
        return tensor

    def source_of(self, tensor: torch.Tensor) -> tuple[Source, Gather]:
        """What is known of a tensor; one that no walk found is kept as it is, and its functions are traced anew."""
        if id(tensor) not in self.known:
            self.opaque = self.opaque or "a captured tensor is reached in a way that cannot be followed"
            self.know(Source(tensor, "tensor", frozen=True))
        return self.known[id(tensor)]

    def guard(self, source: Source, name: str, read: Callable[..., Any], args: tuple[Any, ...], value: Any) -> None:
        """Note that the trace holds only while reading this of a tensor gives this value."""
        if source.leaf is not None:
            self.guards[source.leaf, f"{name}{args}"] = source.leaf, read, args, value
            return
        for number in source.numbers():
            self.specialize(number)
        for leaf in source.leaves():
            if leaf.leaf is not None:
                self.guards[leaf.leaf, "shape"] = leaf.leaf, _shape, (), _shape(leaf.tensor)
        if any(step.dependent for step in source.steps()):
            self.opaque = self.opaque or f"the shape of `{source.name}` depends on the values of captured tensors"

    def guard_size(self, source: Source, dim: int) -> int:
        """The size of one dimension, which the trace then depends on."""
        size = _size(source.tensor, dim)
        self.guard(source, "size", _size, (dim,), size)
        return size

    def load(self, source: Source, index: tuple[Expr, ...]) -> Expr:
        """One element of a captured tensor."""
        if source.constant and not index:
            return const(source.tensor.item())
        if source.constant and all(each.op is Op.CONST for each in index):
            return const(source.tensor[tuple(int(each.value) for each in index)].item())  # type: ignore[arg-type]
        name, scalar = self._capture(source)
        return load(name, scalar, *index)

    def _capture(self, source: Source) -> tuple[str, Scalar]:
        key = (source.step, source.path) if source.step is not None else source
        if key not in self._loaded:
            scalar = self._scalar(source)
            name = self.unique(source.name)
            self._loaded[key] = name
            self.captures.append(Capture(name, scalar, (ANY_DIM,) * source.tensor.dim()))
            self.sources.append(source)
        name = self._loaded[key]
        return name, next(each.scalar for each in self.captures if each.name == name)

    def _scalar(self, source: Source) -> Scalar:
        dtype = source.tensor.dtype
        if source.tensor.layout is not torch.strided or source.tensor.is_nested:
            self.refuse(f"`{source.name}` is not a dense tensor", f"use `{source.name}.to_dense()` before the call")
        if dtype is torch.bool:
            return Scalar.BOOL
        if dtype in INTEGERS:
            return Scalar.INDEX
        if dtype not in FLOATS:
            self._refuse_dtype(source)
        return Scalar.FLOAT

    def _refuse_dtype(self, source: Source) -> NoReturn:
        dtype = source.tensor.dtype
        hint = f"convert it: `{source.name}.float()`"
        if dtype.is_complex:
            hint = f"attncc computes with real numbers: index `{source.name}.real` or `{source.name}.imag`"
        self.refuse(f"`{source.name}` is a tensor of {dtype}, which cannot be captured", hint)

    def elements(self, gather: Gather) -> Grid:
        """Every element that is left of a captured tensor: one, or so few that they are unrolled."""
        shape = tuple(self.guard_size(gather.source, dim) for dim in gather.free)
        count = 1
        for size in shape:
            count *= size
        if count > MAX_ELEMENTS:
            message = (
                f"this needs {count} elements of `{gather.source.name}` for every pair; the limit is {MAX_ELEMENTS}"
            )
            hint = "index every dimension, or compute this before the call and capture the result"
            self.refuse(message, hint, limit=True)
        return Grid(shape, tuple(self.load(gather.source, index) for index in _indices(gather, shape)))


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _size(tensor: torch.Tensor, dim: int) -> int:
    return int(tensor.shape[dim])


def _indices(gather: Gather, shape: tuple[int, ...]) -> Iterator[tuple[Expr, ...]]:
    """The index of every element, in row-major order."""
    total = 1
    for size in shape:
        total *= size
    for flat in range(total):
        rest, at = flat, dict[int, int]()
        for dim, size in zip(reversed(gather.free), reversed(shape), strict=True):
            at[dim] = rest % size
            rest //= size
        yield tuple(const(at[dim]) if each is None else each for dim, each in enumerate(gather.index))


def _unseen(roots: tuple[Expr, ...], seen: dict[Expr, int]) -> list[Expr]:
    """The parts of expressions that are not in `seen`, arguments first."""
    order: dict[Expr, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        expr, done = stack.pop()
        if done:
            order.setdefault(expr)
        elif expr not in seen and expr not in order:
            stack.append((expr, True))
            stack += [(arg, False) for arg in reversed(expr.args)]
    return list(order)

"""What a user's function computes with while it is traced: `TracedTensor` in place of tensors, `TracedInt` of numbers.

A `TracedTensor` is a `torch.Tensor` without storage whose every use goes to the tracer; it is what `score`, `q_idx` and
all that depends on them are. A `TracedInt` stands for a number from the user's surroundings: arithmetic with it stays
symbolic, and whoever reads its plain value makes it a constant of the kernel. It is not an `int`, although `isinstance`
says so, because C code would read an `int` without a trace.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch.overrides import handle_torch_function

from attncc.errors import AttnccError, LanguageError
from attncc.ir import Expr, Op, Scalar, const

if TYPE_CHECKING:
    from attncc.frontend.recordings import Source

DTYPES: Final = {Scalar.BOOL: torch.bool, Scalar.INDEX: torch.int64, Scalar.FLOAT: torch.float32}


class Tracing(Protocol):
    """What a traced value asks of the trace that it belongs to."""

    active: bool

    def specialize(self, number: Expr | int) -> None:
        """Make a number, by its position, or the numbers of an expression constants."""

    def parameter(self, position: int, value: int, name: str) -> Expr:
        """The parameter of a number."""

    def arithmetic(self, op: Op, *operands: Expr) -> Expr:
        """An operation on numbers, with its place noted."""

    def refusal(self, message: str, hint: str | None = None) -> AttnccError:
        """An error at the place where the user's code stands."""


@dataclass(frozen=True, slots=True)
class Grid:
    """An array of expressions in row-major order; a single expression has shape ()."""

    shape: tuple[int, ...]
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Gather:
    """Elements of a captured tensor: an index for each of its dimensions, None where the whole dimension is left."""

    source: Source
    index: tuple[Expr | None, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """The dimensions that are left whole."""
        return tuple(dim for dim, each in enumerate(self.index) if each is None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions that are left."""
        sizes = self.source.tensor.shape
        return tuple(int(sizes[dim]) for dim in self.free)


class TracedTensor(torch.Tensor):
    """A tensor of expressions; `content` says which, or which elements of a captured tensor."""

    tracing: Tracing
    content: Grid | Gather
    declared: torch.dtype  # what `dtype` gives: asking torch for it would come back as a call

    @classmethod
    def make(cls, tracing: Tracing, content: Grid | Gather, dtype: torch.dtype) -> TracedTensor:
        """A traced tensor with the shape of its content."""
        # torch calls this private, but documents it for subclasses without storage.
        made: TracedTensor = cls._make_wrapper_subclass(cls, content.shape, dtype=dtype, device=torch.device("meta"))
        made.tracing = tracing
        made.content = content
        made.declared = dtype
        return made

    # The signatures are torch's.
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Reached only without the mode of a running trace: the value outlived its trace, or was carried elsewhere."""
        name = getattr(func, "__name__", str(func))
        raise LanguageError(
            f"`{name}` is applied to a traced value outside of its trace",
            hint="a score or mask function may not keep its arguments, nor pass them to another thread",
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Reached where torch itself computes with a traced value: what does so cannot be compiled."""
        raise LanguageError(f"`{func}` cannot be compiled")

    # torch hands on `2 * x` as `x * 2`; here sums and products keep the order in which they were written.

    def __radd__(self, other: Any) -> Any:
        return handle_torch_function(torch.Tensor.__radd__, (self,), self, other)

    def __rmul__(self, other: Any) -> Any:
        return handle_torch_function(torch.Tensor.__rmul__, (self,), self, other)

    def __round__(self, ndigits: int | None = None) -> TracedTensor:
        raise self.tracing.refusal("`round` needs a plain number", "use `torch.round(x)`")

    def __divmod__(self, other: object) -> Any:
        raise self.tracing.refusal("`divmod` needs plain numbers", "use `x // y` and `x % y`")


class TracedInt:
    """A number from the user's surroundings, by its `position` and `name`, or `expr`, computed from such."""

    __slots__ = ("_expr", "name", "position", "tracing", "value")

    def __init__(
        self, tracing: Tracing, value: int, expr: Expr | None = None, *, position: int = -1, name: str = ""
    ) -> None:
        self.tracing = tracing
        self.value = value
        self.position = position
        self.name = name
        self._expr = expr

    @property
    def expr(self) -> Expr:
        """The number over the parameters of the kernel; it becomes one when it is first needed."""
        if self._expr is None:
            self._expr = self.tracing.parameter(self.position, self.value, self.name)
        return self._expr

    @property  # type: ignore[misc]  # `isinstance(window, int)` holds, as it would without a trace
    def __class__(self) -> type:
        return int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lets torch take it anywhere; the mode of the trace comes first."""
        return NotImplemented

    def read(self) -> int:
        """The plain number, which becomes a constant of the kernel."""
        self.tracing.specialize(self.position if self._expr is None else self._expr)
        return self.value

    def _binary(self, op: Op, plain: Callable[[Any, Any], Any], other: object, swap: bool) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented
        kind = type(other)
        if kind is TracedInt or kind is int:
            mine = self.expr  # before the other one, so that parameters come in the order of their first use
            theirs, value = (other.expr, other.value) if isinstance(other, TracedInt) else (const(other), other)  # type: ignore[arg-type]
            left, right = (theirs, mine) if swap else (mine, theirs)
            plainly = plain(value, self.value) if swap else plain(self.value, value)
            try:
                expr = self.tracing.arithmetic(op, left, right)
            except LanguageError:
                self.tracing.specialize(theirs)
                return plain(value, self.read()) if swap else plain(self.read(), value)
            return TracedInt(self.tracing, plainly, expr)
        return plain(other, self.read()) if swap else plain(self.read(), other)

    def __neg__(self) -> TracedInt:
        return TracedInt(self.tracing, -self.value, self.tracing.arithmetic(Op.NEG, self.expr))

    def __pos__(self) -> TracedInt:
        return self

    def __abs__(self) -> TracedInt:
        return TracedInt(self.tracing, abs(self.value), self.tracing.arithmetic(Op.ABS, self.expr))

    def __repr__(self) -> str:
        return repr(self.read())

    def __format__(self, spec: str) -> str:
        return format(self.read(), spec)

    def __hash__(self) -> int:
        return hash(self.read())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array"):
            raise AttributeError(name)  # numpy then takes the number through `__index__`
        return getattr(self.read(), name)


_SYMBOLIC: Final[dict[str, tuple[Op, Callable[[Any, Any], Any]]]] = {
    "add": (Op.ADD, operator.add),
    "sub": (Op.SUB, operator.sub),
    "mul": (Op.MUL, operator.mul),
    "floordiv": (Op.FLOORDIV, operator.floordiv),
    "mod": (Op.MOD, operator.mod),
}
_PLAIN: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "truediv": operator.truediv,
    "pow": operator.pow,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "divmod": divmod,
}
_ORDER: Final = ("lt", "le", "gt", "ge", "eq", "ne")
_UNARY: Final = ("bool", "int", "index", "float", "invert", "round", "trunc", "floor", "ceil")


def _install() -> None:
    """Give `TracedInt` the operators of an int."""

    def symbolic(op: Op, plain: Callable[[Any, Any], Any], swap: bool) -> Callable[[TracedInt, object], Any]:
        return lambda self, other: self._binary(op, plain, other, swap)

    def plainly(plain: Callable[[Any, Any], Any], swap: bool) -> Callable[..., Any]:
        def read(self: TracedInt, other: object, *rest: object) -> Any:
            if isinstance(other, torch.Tensor):
                return NotImplemented
            theirs = other.read() if isinstance(other, TracedInt) else other
            mine = self.read()
            return plain(theirs, mine) if swap else plain(mine, theirs, *rest)

        return read

    def unary(name: str) -> Callable[..., Any]:
        return lambda self, *rest: getattr(int, name)(self.read(), *rest)

    for name, (op, plain) in _SYMBOLIC.items():
        setattr(TracedInt, f"__{name}__", symbolic(op, plain, False))
        setattr(TracedInt, f"__r{name}__", symbolic(op, plain, True))
    for name, plain in _PLAIN.items():
        setattr(TracedInt, f"__{name}__", plainly(plain, False))
        setattr(TracedInt, f"__r{name}__", plainly(plain, True))
    for name in _ORDER:
        setattr(TracedInt, f"__{name}__", plainly(getattr(operator, name), False))
    for name in _UNARY:
        setattr(TracedInt, f"__{name}__", unary(f"__{name}__"))


_install()

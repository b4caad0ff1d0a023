"""`mask` and `score`: decorators that keep a plain function callable and add what a reader wants to know of it.

In comes a function with FlexAttention's arguments; out goes a `Mask` or a `Score` that any caller of such functions
takes, torch's own `flex_attention` included. Masks compose with `&`, `|` and `~`, scores with `>>`. Nothing here looks
at tensors, compiles, or needs torch.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType, MappingProxyType
from typing import Any, ClassVar, ParamSpec, Self, TypeVar, overload

from attncc.errors import LanguageError

#: Named arguments that a function may ask for after FlexAttention's own.
SIZES = ("q_len", "kv_len", "batch", "heads")

# The values that pass through are tensors for torch and traced values for attncc; this room looks at neither.
ModFunction = Callable[..., Any]

_CAPTURE = re.compile(r"(float|int|bool)(\[(batch|heads|q_len|kv_len|_|\d+)(,\s*(batch|heads|q_len|kv_len|_|\d+))*\])?")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a parametrised mask or score was made: calling `factory` with `arguments` makes it again."""

    factory: Callable[..., Any]
    arguments: Mapping[str, Any]

    def __repr__(self) -> str:
        shown = (f"{name}={_short(value)}" for name, value in self.arguments.items())
        return f"{self.factory.__name__}({', '.join(shown)})"


class Mod:
    """A plain function with FlexAttention's arguments, its name, formula, citation and the dims of its captures."""

    kind: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]]
    #: What tells the front end that `function` is to be traced, and the dims of its captures.
    __attncc_captures__: Mapping[str, str] = MappingProxyType({})
    #: The factory that made it, and what that was called with.
    _made: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None

    def __init__(
        self,
        function: ModFunction,
        *,
        name: str | None = None,
        formula: str = "",
        citation: str = "",
        captures: Mapping[str, str] | None = None,
        sizes: tuple[str, ...] | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = name or str(getattr(function, "__name__", self.kind))
        self.formula = formula
        self.citation = citation
        self.captures = MappingProxyType(_checked_captures(captures or {}))
        self.__attncc_captures__ = dict(self.captures)
        self.sizes = _sizes(self, function) if sizes is None else sizes
        self.__name__ = self.name
        self.__signature__ = _signature((*self.arguments, *self.sizes))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def recipe(self) -> Recipe | None:
        """How it was made, if a factory made it."""
        if self._made is None:
            return None
        factory, args, kwargs = self._made
        bound = inspect.signature(factory).bind(*args, **kwargs)
        bound.apply_defaults()
        return Recipe(factory, MappingProxyType(dict(bound.arguments)))

    def bind(self, **sizes: int) -> Self:
        """The same function with some of the sizes that it asks for fixed, as torch's `flex_attention` needs it."""
        unknown = sorted(set(sizes) - set(self.sizes))
        if unknown:
            asked = f"it asks for {', '.join(self.sizes)}" if self.sizes else "it asks for no sizes"
            raise LanguageError(f"`{self.name}` has no argument `{unknown[0]}` to bind", hint=asked)
        return _bound(self, sizes)

    @classmethod
    def of(cls, function: object) -> Self:
        """The function as an object of this class; one that already is stays itself."""
        if isinstance(function, cls):
            return function
        if isinstance(function, Mod):
            other = f"the {function.kind} `{function.name}`"
        elif not callable(function):
            other = repr(function)
        else:
            return cls(function)
        raise LanguageError(
            f"a {cls.kind} combines with functions of {', '.join(cls.arguments)}, not with {other}",
            hint="masks are joined by `&`, `|` and `~`, scores by `>>`",
        )

    def __bool__(self) -> bool:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("torch._dynamo"):
            return True  # torch.compile of torch 2.11 asks whether there is something to call
        hint = "combine masks with `&`, `|` and `~`, scores with `>>`; to see whether one is given, use `is None`"
        raise LanguageError(f"the {self.kind} `{self.name}` has no truth value", hint=hint)

    def __repr__(self) -> str:
        named = self.recipe is not None and not self.recipe.factory.__name__.startswith("_")
        shown = repr(self.recipe) if named else self.name
        return f"<{type(self).__name__} {shown}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = str(getattr(self, "__qualname__", self.name))
        if getattr(sys.modules.get(self.__module__), name, None) is self:
            return name
        if self.recipe is not None:
            return _remake, (self.recipe.factory, dict(self.recipe.arguments))
        parts = (self.name, self.formula, self.citation, dict(self.captures))
        return _restore, (type(self), self.function, *parts)


class Mask(Mod):
    """Which keys a query sees: a function of (b, h, q_idx, kv_idx) that is true where it does."""

    kind = "mask"
    arguments = ("b", "h", "q_idx", "kv_idx")

    def __and__(self, other: ModFunction) -> Mask:
        return _both(self, Mask.of(other))

    def __rand__(self, other: ModFunction) -> Mask:
        return _both(Mask.of(other), self)

    def __or__(self, other: ModFunction) -> Mask:
        return _either(self, Mask.of(other))

    def __ror__(self, other: ModFunction) -> Mask:
        return _either(Mask.of(other), self)

    def __invert__(self) -> Mask:
        return _neither(self)


class Score(Mod):
    """What a score becomes: a function of (score, b, h, q_idx, kv_idx)."""

    kind = "score"
    arguments = ("score", "b", "h", "q_idx", "kv_idx")

    def __rshift__(self, other: ModFunction) -> Score:
        return _in_turn(self, Score.of(other))

    def __rrshift__(self, other: ModFunction) -> Score:
        return _in_turn(Score.of(other), self)


@overload
def mask(function: ModFunction, /) -> Mask: ...
@overload
def mask(
    *, name: str | None = None, formula: str = "", citation: str = "", captures: Mapping[str, str] | None = None
) -> Callable[[ModFunction], Mask]: ...
def mask(function: ModFunction | None = None, /, **facts: Any) -> Mask | Callable[[ModFunction], Mask]:
    """Make a plain mask function a `Mask`; bare, or with `name`, `formula`, `citation` and `captures`.

    `captures` declares dims that are checked in each call, as in `{"slopes": "float[heads]"}`.
    """
    return Mask(function, **facts) if function is not None else lambda defined: Mask(defined, **facts)


@overload
def score(function: ModFunction, /) -> Score: ...
@overload
def score(
    *, name: str | None = None, formula: str = "", citation: str = "", captures: Mapping[str, str] | None = None
) -> Callable[[ModFunction], Score]: ...
def score(function: ModFunction | None = None, /, **facts: Any) -> Score | Callable[[ModFunction], Score]:
    """Make a plain score function a `Score`; bare, or with `name`, `formula`, `citation` and `captures`."""
    return Score(function, **facts) if function is not None else lambda defined: Score(defined, **facts)


P = ParamSpec("P")
M = TypeVar("M", bound=Mod)


def recipe(factory: Callable[P, M]) -> Callable[P, M]:
    """Let the masks or scores that a factory makes remember their arguments: for `repr`, and so that they pickle."""

    @functools.wraps(factory)
    def made(*args: P.args, **kwargs: P.kwargs) -> M:
        mod = factory(*args, **kwargs)
        mod._made = (made, args, kwargs)
        return mod

    return made


# What these functions close over is parts and names of sizes, as any function of a user's might.


@recipe
def _both(left: Mask, right: Mask) -> Mask:
    left_sizes, right_sizes = left.sizes, right.sizes

    def both(b: Any, h: Any, q_idx: Any, kv_idx: Any, **sizes: Any) -> Any:
        seen = left(b, h, q_idx, kv_idx, **_of(sizes, left_sizes))
        return seen & right(b, h, q_idx, kv_idx, **_of(sizes, right_sizes))

    return _composed(both, f"{left.name}_and_{right.name}", "({}) ∧ ({})", left, right)


@recipe
def _either(left: Mask, right: Mask) -> Mask:
    left_sizes, right_sizes = left.sizes, right.sizes

    def either(b: Any, h: Any, q_idx: Any, kv_idx: Any, **sizes: Any) -> Any:
        seen = left(b, h, q_idx, kv_idx, **_of(sizes, left_sizes))
        return seen | right(b, h, q_idx, kv_idx, **_of(sizes, right_sizes))

    return _composed(either, f"{left.name}_or_{right.name}", "({}) ∨ ({})", left, right)


@recipe
def _neither(inner: Mask) -> Mask:
    def neither(b: Any, h: Any, q_idx: Any, kv_idx: Any, **sizes: Any) -> Any:
        return ~inner(b, h, q_idx, kv_idx, **sizes)

    return _composed(neither, f"not_{inner.name}", "¬({})", inner)


@recipe
def _in_turn(first: Score, second: Score) -> Score:
    first_sizes, second_sizes = first.sizes, second.sizes

    def in_turn(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, **sizes: Any) -> Any:
        then = first(score, b, h, q_idx, kv_idx, **_of(sizes, first_sizes))
        return second(then, b, h, q_idx, kv_idx, **_of(sizes, second_sizes))

    return _composed(in_turn, f"{first.name}_then_{second.name}", "{}; then {}", first, second)


@recipe
def _bound(inner: M, fixed: Mapping[str, int]) -> M:
    def bound(*args: Any, **sizes: Any) -> Any:
        return inner(*args, **sizes, **fixed)

    made = _composed(bound, inner.name, "{}", inner)
    made.sizes = tuple(name for name in made.sizes if name not in fixed)
    made.__signature__ = _signature((*made.arguments, *made.sizes))
    return made


def _of(sizes: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The sizes that a part asks for."""
    return {name: sizes[name] for name in names}


def _composed(function: ModFunction, name: str, formula: str, *parts: M) -> M:
    """A composition has the citations of its parts, the sizes, and the captures that are declared alike."""
    citations = dict.fromkeys(part.citation for part in parts if part.citation)
    sizes = dict.fromkeys(size for part in parts for size in part.sizes)
    declared: dict[str, set[str]] = {}
    for part in parts:
        for capture, dims in part.captures.items():
            declared.setdefault(capture, set()).add(dims)
    return type(parts[0])(
        function,
        name=name,
        formula=formula.format(*(part.formula for part in parts)) if all(part.formula for part in parts) else "",
        citation="; ".join(citations),
        captures={capture: dims.pop() for capture, dims in declared.items() if len(dims) == 1},
        sizes=tuple(sizes),
    )


def _sizes(mod: Mod, function: ModFunction) -> tuple[str, ...]:
    """The sizes that a function asks for; LanguageError where its arguments are not FlexAttention's."""
    given = _required(function)
    named = given[len(mod.arguments) :]
    if len(given) < len(mod.arguments) or any(name not in SIZES for name in named):
        expected = f"({', '.join(mod.arguments)})"
        hint = f"after these it may ask for {', '.join(SIZES)} by name"
        shown = f"`{mod.name}` takes ({', '.join(given)})"
        raise LanguageError(f"a {mod.kind} function takes {expected}, but {shown}", hint=hint)
    return named


def _required(function: ModFunction) -> tuple[str, ...]:
    """The names of the arguments without a default."""
    if isinstance(function, FunctionType) and not function.__defaults__:
        code = function.__code__
        if not code.co_kwonlyargcount and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
            return code.co_varnames[: code.co_argcount]  # fast: masks are made anew for each batch
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.default is each.empty)


def _signature(names: tuple[str, ...]) -> inspect.Signature:
    return _made_signature(names)


# torch.compile takes what it gives as a constant (torch.compiler.assume_constant_result, which would import torch).
_signature._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=64)
def _made_signature(names: tuple[str, ...]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


def _checked_captures(captures: Mapping[str, str]) -> dict[str, str]:
    for name, declared in captures.items():
        if not _CAPTURE.fullmatch(declared):
            hint = "write float, int or bool, then dims: batch, heads, q_len, kv_len, a size, or _ for any"
            raise LanguageError(f"`{declared}` does not declare the dims of `{name}`", hint=hint)
    return dict(captures)


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"<tensor {'×'.join(map(str, shape)) or '0-d'}>"


def _remake(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    return factory(**arguments)


def _restore(
    kind: type[Mod], function: ModFunction, name: str, formula: str, citation: str, captures: Mapping[str, str]
) -> Mod:
    return kind(function, name=name, formula=formula, citation=citation, captures=captures)

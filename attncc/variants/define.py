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
from types import MappingProxyType
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
    recipe: Recipe | None = None

    def __init__(
        self,
        function: ModFunction,
        *,
        name: str | None = None,
        formula: str = "",
        citation: str = "",
        captures: Mapping[str, str] | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = name or str(getattr(function, "__name__", self.kind))
        self.formula = formula
        self.citation = citation
        self.captures = MappingProxyType(_checked_captures(captures or {}))
        self.__attncc_captures__ = dict(self.captures)
        self.sizes = _sizes(self, function)
        self.__name__ = self.name
        self.__signature__ = _signature((*self.arguments, *self.sizes))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def bind(self, **sizes: int) -> Self:
        """The same function with some of the sizes that it asks for fixed, as torch's `flex_attention` needs it."""
        unknown = sorted(set(sizes) - set(self.sizes))
        if unknown:
            asked = f"it asks for {', '.join(self.sizes)}" if self.sizes else "it asks for no sizes"
            raise LanguageError(f"`{self.name}` has no argument `{unknown[0]}` to bind", hint=asked)
        return self._like(_Bound(self, MappingProxyType(dict(sizes))), self.name, self.formula, (self,))

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
        raise LanguageError(f"a {cls.kind} combines with functions of {', '.join(cls.arguments)}, not with {other}")

    @classmethod
    def _like(cls, function: ModFunction, name: str, formula: str, parts: Iterable[Mod]) -> Self:
        """A composition: it has the citations of its parts, and the captures whose declarations agree."""
        parts = tuple(parts)
        citations = dict.fromkeys(part.citation for part in parts if part.citation)
        captures: dict[str, set[str]] = {}
        for part in parts:
            for capture, declared in part.captures.items():
                captures.setdefault(capture, set()).add(declared)
        agreed = {capture: min(declared) for capture, declared in captures.items() if len(declared) == 1}
        return cls(function, name=name, formula=formula, citation="; ".join(citations), captures=agreed)

    def __bool__(self) -> bool:
        hint = "combine masks with `&`, `|` and `~`, scores with `>>`; to see whether one is given, use `is None`"
        raise LanguageError(f"the {self.kind} `{self.name}` has no truth value", hint=hint)

    def __repr__(self) -> str:
        shown = repr(self.recipe) if self.recipe else self.name
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
        return _join(_And, self, other, "and", "∧")

    def __rand__(self, other: ModFunction) -> Mask:
        return _join(_And, other, self, "and", "∧")

    def __or__(self, other: ModFunction) -> Mask:
        return _join(_Or, self, other, "or", "∨")

    def __ror__(self, other: ModFunction) -> Mask:
        return _join(_Or, other, self, "or", "∨")

    def __invert__(self) -> Mask:
        return Mask._like(_Not(self), f"not_{self.name}", f"¬({self.formula})" if self.formula else "", (self,))


class Score(Mod):
    """What a score becomes: a function of (score, b, h, q_idx, kv_idx)."""

    kind = "score"
    arguments = ("score", "b", "h", "q_idx", "kv_idx")

    def __rshift__(self, other: ModFunction) -> Score:
        return _chain(self, Score.of(other))

    def __rrshift__(self, other: ModFunction) -> Score:
        return _chain(Score.of(other), self)


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
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def made(*args: P.args, **kwargs: P.kwargs) -> M:
        mod = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        mod.recipe = Recipe(made, MappingProxyType(dict(bound.arguments)))
        return mod

    return made


@dataclass(frozen=True, slots=True)
class _And:
    left: Mask
    right: Mask

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        return _ask(self.left, args, sizes) & _ask(self.right, args, sizes)


@dataclass(frozen=True, slots=True)
class _Or:
    left: Mask
    right: Mask

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        return _ask(self.left, args, sizes) | _ask(self.right, args, sizes)


@dataclass(frozen=True, slots=True)
class _Not:
    inner: Mask

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        return ~_ask(self.inner, args, sizes)


@dataclass(frozen=True, slots=True)
class _Then:
    first: Score
    second: Score

    def __call__(self, score: Any, *args: Any, **sizes: Any) -> Any:
        return _ask(self.second, (_ask(self.first, (score, *args), sizes), *args), sizes)


class _Bound:
    """A function with some of its sizes fixed; it asks for the rest."""

    def __init__(self, inner: Mod, fixed: Mapping[str, int]) -> None:
        self.inner = inner
        self.fixed = dict(fixed)

    def __call__(self, *args: Any, **sizes: Any) -> Any:
        return self.inner(*args, **sizes, **self.fixed)


def _ask(part: Mod, args: tuple[Any, ...], sizes: Mapping[str, Any]) -> Any:
    """Call a part with the sizes that it asks for."""
    return part(*args, **{name: sizes[name] for name in part.sizes})


def _join(kind: type[_And] | type[_Or], left: ModFunction, right: ModFunction, word: str, sign: str) -> Mask:
    first, second = Mask.of(left), Mask.of(right)
    formula = f"({first.formula}) {sign} ({second.formula})" if first.formula and second.formula else ""
    return Mask._like(kind(first, second), f"{first.name}_{word}_{second.name}", formula, (first, second))


def _chain(first: Score, second: Score) -> Score:
    formula = f"{first.formula}; then {second.formula}" if first.formula and second.formula else ""
    return Score._like(_Then(first, second), f"{first.name}_then_{second.name}", formula, (first, second))


def _sizes(mod: Mod, function: ModFunction) -> tuple[str, ...]:
    """The sizes that a function asks for; LanguageError where its arguments are not FlexAttention's."""
    match function:
        case _Bound():
            return tuple(name for name in function.inner.sizes if name not in function.fixed)
        case _And() | _Or():
            return tuple(dict.fromkeys((*function.left.sizes, *function.right.sizes)))
        case _Then():
            return tuple(dict.fromkeys((*function.first.sizes, *function.second.sizes)))
        case _Not():
            return function.inner.sizes
    given = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    named = tuple(p.name for p in given[len(mod.arguments) :])
    if len(given) < len(mod.arguments) or any(name not in SIZES for name in named):
        expected = f"({', '.join(mod.arguments)})"
        shown = f"({', '.join(p.name for p in given)})"
        hint = f"after these it may ask for {', '.join(SIZES)} by name"
        raise LanguageError(f"a {mod.kind} function takes {expected}, but `{mod.name}` takes {shown}", hint=hint)
    return named


def _signature(names: Iterable[str]) -> inspect.Signature:
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

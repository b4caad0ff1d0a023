"""What a name means at one place of a definition, and what to say when it means nothing or something else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lark import Token, Tree

from attncc.errors import LanguageError
from attncc.ir import BATCH, HEADS, KV_IDX, KV_LEN, Q_IDX, Q_LEN, B, Capture, Expr, H, const, load
from attncc.ir.syntax import CONSTANTS, CONVERSIONS, FUNCTIONS, SHORTHANDS
from attncc.ir.text import describe_capture

#: What every expression may use; a helper nothing else beside its arguments.
POSITIONS: Final[dict[str, Expr]] = {
    **{name: const(value) for name, value in CONSTANTS.items()},
    **{"b": B, "h": H, "q_idx": Q_IDX, "kv_idx": KV_IDX},
    **{"batch": BATCH, "heads": HEADS, "q_len": Q_LEN, "kv_len": KV_LEN},
}
BUILT_IN: Final = (*FUNCTIONS, *SHORTHANDS, *CONVERSIONS)
INDEX_OF: Final = {"batch": "b", "heads": "h", "q_len": "q_idx", "kv_len": "kv_idx"}
#: Names that other languages and papers use.
FOREIGN: Final = {
    **{"True": "true", "False": "false", "batch_idx": "b", "head_idx": "h", "head": "h", "scores": "score"},
    **{"q": "q_idx", "k": "kv_idx", "kv": "kv_idx", "i": "q_idx", "j": "kv_idx", "m": "q_idx", "n": "kv_idx"},
    **{"query_idx": "q_idx", "key_idx": "kv_idx", "k_idx": "kv_idx", "infinity": "inf", "PI": "pi"},
    **{"minimum": "min", "maximum": "max", "clip": "clamp", "pow": "`**`", "log10": "log", "select": "where"},
}
#: What to do about a name that is like no other.
TO_DECLARE: Final = {
    "name": "bind it in a line above, `{0} = …`, or declare it: `capture {0}: float[heads]`",
    "captured tensor": "declare it first: `capture {0}: float[heads]`",
    "function": "define it above `attention`: `def {0}(x) = …`",
}
MAX_QUOTED: Final = 40

Node = Tree[Token]


#: Comparing names is slow; nobody means one that is much longer.
MAX_OFF: Final = 5
MAX_CANDIDATES: Final = 300


@dataclass(frozen=True, slots=True)
class Helper:
    """A function of the definition: one expression of its arguments. A `broken` one was reported where it stands."""

    name: str
    arguments: tuple[str, ...]
    body: Node
    broken: bool = False


#: None stands for a value whose own definition is in error: what depends on it is not reported again.
Value = Expr | None
Meaning = Expr | Capture | Helper | None


@dataclass(slots=True)
class Names:
    """The meanings in scope. `beyond` has a message and a hint for each name that exists elsewhere, but not here;
    an unknown name is `told` once.
    """

    meanings: dict[str, Meaning] = field(default_factory=lambda: dict(POSITIONS))
    beyond: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def inside(self, helper: Helper, values: Iterable[Value]) -> Names:
        """What the body of a helper sees: its arguments, positions and sizes, and helpers."""
        helpers = {name: meaning for name, meaning in self.meanings.items() if isinstance(meaning, Helper)}
        arguments = dict(zip(helper.arguments, values, strict=True))
        return Names({**POSITIONS, **helpers, **arguments}, beyond=self.beyond)

    def value(self, name: str) -> Value:
        """What the bare name holds. LanguageError if it is no number."""
        meaning = self._find(name, "name", (Expr, Capture))
        if isinstance(meaning, Capture):
            if meaning.rank:
                message = f"`{name}` is a captured tensor, {describe_capture(meaning)}, not a number"
                raise LanguageError(message, hint=f"read one element of it: `{example(meaning)}`")
            return load(name, meaning.scalar)
        if isinstance(meaning, Helper) or self.is_built_in(name):
            raise LanguageError(f"`{name}` is a function", hint=f"call it: `{name}(x)`")
        return meaning

    def capture(self, name: str) -> Capture | None:
        """The captured tensor of this name. LanguageError if it is none."""
        meaning = self._find(name, "captured tensor", (Capture,))
        if isinstance(meaning, Capture) or (meaning is None and not self.is_built_in(name)):
            return meaning
        what = "a number" if isinstance(meaning, Expr) else "a function"
        hint = "only captured tensors have elements" if isinstance(meaning, Expr) else "arguments stand in parentheses"
        raise LanguageError(f"`{name}` is {what} and cannot be indexed", hint=hint)

    def helper(self, name: str) -> Helper | None:
        """The helper of this name, or None for a function that is built in. LanguageError if it is no function."""
        meaning = self._find(name, "function", (Helper,))
        if isinstance(meaning, Capture):
            hint = f"read one element of it: `{example(meaning)}`"
            raise LanguageError(f"`{name}` is a captured tensor, not a function", hint=hint)
        if isinstance(meaning, Expr):
            raise LanguageError(f"`{name}` is a number, not a function", hint=f"their product is `{name} * (…)`")
        return meaning

    def is_built_in(self, name: str) -> bool:
        """Whether the name is a function of the language."""
        return name in BUILT_IN and name not in self.meanings

    def _find(self, name: str, what: str, kinds: tuple[type, ...]) -> Meaning:
        if name in self.meanings:
            return self.meanings[name]
        if name in BUILT_IN or name in self.told:
            return None
        if name in self.beyond:
            message, hint = self.beyond[name]
            self.told.add(name)
            raise LanguageError(f"`{name}` {message}", hint=hint)
        known = [other for other, meaning in self.meanings.items() if meaning is None or isinstance(meaning, kinds)]
        functions = BUILT_IN if Helper in kinds else ()
        self.told.add(name)
        near = suggest(name, (*known, *functions))
        raise LanguageError(
            f"unknown {what} `{name}`",
            hint=near or TO_DECLARE[what].format(name if len(name) <= MAX_QUOTED else "name"),
        )


def suggest(name: str, known: Iterable[str]) -> str | None:
    """A hint with the nearest of the known names, if one is near."""
    known = sorted({other for other in known if abs(len(other) - len(name)) <= MAX_OFF})[:MAX_CANDIDATES]
    near = difflib.get_close_matches(name, known, n=1)
    foreign = FOREIGN.get(name)
    if foreign is not None and (foreign in known or foreign.startswith("`")):
        near = [foreign.strip("`")]
    return f"did you mean `{near[0]}`?" if near else None


def example(capture: Capture) -> str:
    """An element of a captured tensor, as one would write it."""
    index = [INDEX_OF.get(str(dim), "ijklmnop"[i % 8]) for i, dim in enumerate(capture.dims)]
    return f"{capture.name}[{', '.join(index)}]" if index else capture.name

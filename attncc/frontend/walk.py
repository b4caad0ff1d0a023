"""One walk through what functions reach: the facts that their meaning depends on, their numbers, and their tensors.

It yields `facts`, a flat list that two walks share exactly if tracing would do the same with both; `ints`, numbers that
may differ from call to call; and `tensors`, each read anew in every walk. Numbers and tensors are known by their
position in the walk, so equal facts are what gives a position its meaning.

With `substitute`, the walk also rebuilds what it goes through, with every such number replaced: new functions of the
same code, shallow copies of containers and objects. What cannot be rebuilt is left as it is, and its numbers are facts.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from attncc.frontend.scan import Scan

MAX_DEPTH: Final = 100
Substitute = Callable[[int, int, str], object]
Visit = Callable[["Walk", Any, str], object]


class Hint:
    """What a walk knows before it begins: attribute names in the code that it will reach, what that code does."""

    __slots__ = ("changes", "names", "typed")

    def __init__(self, names: Iterable[str] = (), changes: bool = False, typed: bool = False) -> None:
        self.names = dict.fromkeys(sorted(names))
        self.changes = changes  # it may change objects: they have to stay the user's own
        self.typed = typed  # it asks for types: numbers have to stay ints


class Walk:
    """One walk. `names` are the attribute names looked for on every object, grown until a walk meets no new one."""

    def __init__(self, hint: Hint, handler_of: Callable[[type], Visit], substitute: Substitute | None = None) -> None:
        self.handler_of = handler_of
        self.names = hint.names
        self.changes = hint.changes
        self.typed = hint.typed
        self.substitute = substitute
        self.facts: list[Any] = []
        self.ints: list[int] = []
        self.tensors: list[torch.Tensor] = []
        self.tensor_names: list[str] = []
        self.codes: set[types.CodeType] = set()
        self.classes: dict[tuple[int, bool], int] = {}
        self.opaque: str | None = None
        self.more: set[str] = set()
        self.again = False
        self.pinned = 0
        self.depth = 0
        self._numbers: dict[tuple[int, object], tuple[int, object]] = {}
        self._seen: dict[tuple[int, bool], tuple[int, object]] = {}

    def visit(self, value: Any, name: str) -> object:
        """Go through a value that has this name where it stands; the value, or what stands for it."""
        if self.depth > MAX_DEPTH:
            return self.unknown(value, "it is nested too deeply")
        self.depth += 1
        result = self.handler_of(type(value))(self, value, name)
        self.depth -= 1
        return result

    def pin(self, value: Any, name: str) -> None:
        """Go through a value that stays as it is: its numbers are facts."""
        self.pinned += 1
        self.visit(value, name)
        self.pinned -= 1

    def unknown(self, value: object, why: str) -> object:
        """A value whose state cannot be told."""
        self.facts.append(type(value).__name__)
        if self.opaque is None:
            self.opaque = why
        return value

    def first_tensor(self, value: torch.Tensor, name: str) -> bool:
        """Take a tensor up, known by its identity; whether it was new."""
        key = id(value), False
        found = self._seen.get(key)
        if found is not None:
            self.facts.append(found[0])
            return False
        self._seen[key] = len(self._seen), value
        self.tensors.append(value)
        self.tensor_names.append(name)
        return True

    def number(self, place: tuple[int, object], value: int, name: str) -> object:
        """Go through a number by its place: functions that share a variable share what stands for it."""
        if self.pinned or self.typed:
            return self.visit(value, name)
        found = self._numbers.get(place)
        if found is None:
            # Places are known by identity only while their owner is alive, as it is during the walk.
            found = self._numbers[place] = len(self._numbers), self.visit(value, name)
        else:
            self.facts += "shared", found[0]
        return found[1]

    def once(self, value: object) -> tuple[int, object] | None:
        """The number and the replacement of what was met before; None, and it is met now."""
        key = id(value), self.pinned > 0
        found = self._seen.get(key)
        if found is None:
            self._seen[key] = len(self._seen), value
        else:
            self.facts.append(found[0])
        return found

    def replace(self, value: object, replacement: object) -> None:
        """What stands for a value wherever else it is met."""
        key = id(value), self.pinned > 0
        self._seen[key] = self._seen[key][0], replacement

    def learn(self, found: Scan) -> None:
        """Take up the names of code that is reached."""
        self.codes.add(found.code)
        if found.opaque is not None and self.opaque is None:
            self.opaque = f"`{found.code.co_name}` {found.opaque}"
        if not found.attributes <= self.names.keys():
            self.more |= found.attributes
        if found.changes and not self.changes:
            self.changes = self.again = True
        if "type" in found.globals and not self.typed:
            self.typed = self.again = True

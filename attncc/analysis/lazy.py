"""Expressions as Python functions that work out no more than their value needs.

Of `and`, `or` and `where` only what decides is worked out, small parts first; what is used twice is worked out once;
and what depends on the row alone once for all tiles of a row. Where a part is undecided (`Wider`) others may decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attncc.analysis.compiled import spelled
from attncc.analysis.quotients import Wider
from attncc.ir import Expr, Op, postorder

#: Text nested deeper than this becomes a function of its own.
MAX_NESTED: Final = 12
_Part = Callable[[list[Any], list[Any]], Any]


@dataclass(frozen=True, slots=True)
class Program:
    """The roots as functions of a row's and a tile's values, which `row` and `tile` make from inputs."""

    functions: tuple[_Part, ...]
    row_values: int
    tile_values: int

    def row(self, *inputs: Any) -> list[Any]:
        """The values of a row, to be shared by its tiles."""
        return [*inputs, *[None] * self.row_values]

    def tile(self, *inputs: Any) -> list[Any]:
        """The values of a tile."""
        return [*inputs, *[None] * self.tile_values]


def program_of(roots: Sequence[Expr], row: Sequence[str], tile: Sequence[str]) -> Program:
    """The roots as functions of the inputs named in `row` and `tile`; they read no captured tensors."""
    writer = _Writer(roots, row, tile)
    lines = writer.run()
    exec(compile("\n".join(lines), "<expressions>", "exec"), writer.scope)
    functions = tuple(writer.scope[writer.called[root]] for root in roots)
    return Program(functions, writer.slots["r"] - len(row), writer.slots["t"] - len(tile))


class _Writer:
    """The text of a program: expressions used once stand inside others, the rest are functions of their own."""

    def __init__(self, roots: Sequence[Expr], row: Sequence[str], tile: Sequence[str]) -> None:
        self.order = postorder(*roots)
        self.roots = frozenset(roots)
        self.uses = Counter(arg for expr in self.order for arg in expr.args)
        self.places = {name: f"{of}[{i}]" for of, names in (("r", row), ("t", tile)) for i, name in enumerate(names)}
        self.slots = {"r": len(row), "t": len(tile)}
        self.scope: dict[str, Any] = {"_all": _all, "_any": _any}
        self.text: dict[Expr, str] = {}
        self.depth: dict[Expr, int] = {}
        self.sizes: dict[Expr, int] = {}
        self.of_tile: dict[Expr, bool] = {}
        self.called: dict[Expr, str] = {}
        self.lines: list[str] = []

    def run(self) -> list[str]:
        """The program, line by line."""
        absorbed = {arg for expr in self.order for arg in self._absorbed(expr)}
        for number, expr in enumerate(self.order):
            self.depth[expr] = 1 + max((self.depth[arg] for arg in expr.args), default=0)
            self.sizes[expr] = 1 + sum(self.sizes[arg] for arg in expr.args)
            self.of_tile[expr] = any(self.of_tile[arg] for arg in expr.args)
            if expr in absorbed:
                continue
            self.text[expr] = self._spelled(expr, number)
            shared = self.uses[expr] > 1 and bool(expr.args)
            if (shared or expr in self.roots or self.depth[expr] > MAX_NESTED) and expr not in self.called:
                self._function(expr, number)
        return self.lines

    def _spelled(self, expr: Expr, number: int) -> str:
        if expr.op in (Op.INPUT, Op.PARAM):
            place = self.places[str(expr.value)]
            self.of_tile[expr] = place.startswith("t")
            return place
        if expr.op is Op.CONST and not isinstance(expr.value, float):
            return f"({expr.value!r})"
        if expr.op in (Op.AND, Op.OR):
            return self._chain(expr, number)
        return f"({spelled(expr, [self.text[arg] for arg in expr.args], number, self.scope)})"

    def _absorbed(self, expr: Expr) -> list[Expr]:
        """The operands of a chain that are chains of the same operation and stand nowhere else."""
        if expr.op not in (Op.AND, Op.OR):
            return []
        return [arg for arg in expr.args if arg.op is expr.op and self.uses[arg] == 1 and arg not in self.roots]

    def _chain(self, expr: Expr, number: int) -> str:
        operands: list[Expr] = []
        pending = [expr]
        while pending:
            current = pending.pop()
            inner = self._absorbed(current)
            operands += [arg for arg in current.args if arg not in inner]
            pending += inner
        operands.sort(key=self.sizes.__getitem__)
        for i, part in enumerate(operands):
            if part not in self.called:
                self._function(part, f"{number}_{i}")
        self.lines.append(f"c{number} = ({''.join(self.called[part] + ', ' for part in operands)})")
        self.depth[expr] = 1
        return f"{'_all' if expr.op is Op.AND else '_any'}(c{number}, r, t)"

    def _function(self, expr: Expr, number: int | str) -> None:
        """The expression as a function; one that is used twice keeps its value."""
        name = self.called[expr] = f"f{number}"
        self.lines.append(f"def {name}(r, t):")
        if self.uses[expr] > 1 and expr.args:
            of = "t" if self.of_tile[expr] else "r"
            place = f"{of}[{self.slots[of]}]"
            self.slots[of] += 1
            self.lines.append(f"    value = {place}")
            self.lines.append(f"    if value is None: value = {place} = {self.text[expr]}")
            self.lines.append("    return value")
        else:
            self.lines.append(f"    return {self.text[expr]}")
        self.text[expr] = f"{name}(r, t)"
        self.depth[expr] = 1


def _any(operands: Sequence[_Part], row: list[Any], tile: list[Any]) -> bool:
    undecided: Wider | None = None
    for operand in operands:
        try:
            if operand(row, tile):
                return True
        except Wider as wider:
            undecided = undecided or wider
    if undecided is not None:
        raise undecided
    return False


def _all(operands: Sequence[_Part], row: list[Any], tile: list[Any]) -> bool:
    undecided: Wider | None = None
    for operand in operands:
        try:
            if not operand(row, tile):
                return False
        except Wider as wider:
            undecided = undecided or wider
    if undecided is not None:
        raise undecided
    return True

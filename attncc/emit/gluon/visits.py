"""Which tiles the warps of a Gluon kernel visit, as text: all walk the same tiles, those that the mask cuts first.

The tiles are those of the Triton kernels; here each step has one number, `visited`, whatever loop it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attncc.analysis.bands import MaskShape
from attncc.emit.triton.visits import Visits, Walk, is_tabulated

#: What a step of the second loop is there.
FULL_STEP = "(visited - partial_count)"


class Steps:
    """The lines that count the tiles which a program visits, and find them."""

    def __init__(self, tiles: Visits, walked: Walk, shape: MaskShape) -> None:
        self.tiles, self.walked = tiles, walked
        self.tabulated = is_tabulated(shape)
        self.only_partial = tiles.full_count == "0"
        # Captured tensors of 64 bits make positions of 64 bits, and the TMA takes 32.
        self.wide = any("load(" in line or re.search(r"\bread\d\(", line) for line in tiles.before)

    def counts(self, *, at_least_one: str) -> list[str]:
        """The numbers of tiles. One at least is visited, since warps wait for it: under its mask no pair is visible.

        It is counted in the name given, `total` or `partial_count`.
        """
        counts = (("partial_count", self.tiles.partial_count), ("full_count", self.tiles.full_count))
        named = [(name, text) for name, text in counts if name == "partial_count" or not self.only_partial]
        lines = [f"{name} = {text}" for name, text in named if text != name]
        lines += [f"{name} = {name}.to(tl.int32)" for name, _ in named if self.wide]
        if self.only_partial:
            return [*lines, "partial_count = tl.maximum(partial_count, 1)", "total = partial_count"]
        if at_least_one == "total":
            return [*lines, "total = tl.maximum(partial_count + full_count, 1)"]
        return [
            *lines,
            "partial_count = tl.maximum(partial_count, 1 - full_count)",
            "total = partial_count + full_count",
        ]

    def first(self) -> list[str]:
        """The lines that find the first tile."""
        partial, full = self._at(self.tiles.partial_start, "0"), self._at(self.tiles.full_start, "0")
        lines = partial if self.only_partial else _branch("partial_count > 0", partial, full)
        return [*lines, *self._kept()]

    def any(self) -> list[str]:
        """The lines that find the tile of number `visited`."""
        partial, full = self.partial(), self.full()
        return partial if self.only_partial else [*_branch("visited < partial_count", partial, full), *self._kept()]

    def partial(self) -> list[str]:
        """The same for a tile that the mask cuts."""
        return [*self._at(self.tiles.partial_start, "visited"), *self._kept()]

    def full(self) -> list[str]:
        """The same for a tile that is visible as a whole."""
        return self._at(self.tiles.full_start, FULL_STEP)

    def _kept(self) -> list[str]:
        """A row of a table may be empty; what lies there is no tile."""
        start = self.walked.start
        if not self.tabulated:
            return []
        rows = "cdiv(kv_len, TILE_KV)" if start == "kv_start" else "cdiv(q_len, TILE_Q)"
        return [f"{start} = tl.minimum(tl.maximum({start}, 0), (tl.{rows} - 1) * {self.walked.tile})"]

    def _at(self, lines: Sequence[str], step: str) -> list[str]:
        found = [re.sub(r"\bstep\b", step, line) for line in lines]
        if step == "0":
            found = [re.sub(r" \+ 0\b", "", line).replace(f" = 0 * {self.walked.tile}", " = 0") for line in found]
        start = f"{self.walked.start} = "
        return [
            f"{start}{self._narrow(line.removeprefix(start))}" if line.startswith(start) else line for line in found
        ]

    def _narrow(self, text: str) -> str:
        return f"({text}).to(tl.int32)" if self.wide else text


def _branch(condition: str, yes: Sequence[str], no: Sequence[str]) -> list[str]:
    """An `if` with both branches; lines that are the same stand once."""
    if list(yes) == list(no):
        return list(yes)
    return [f"if {condition}:", *(f"    {line}" for line in yes), "else:", *(f"    {line}" for line in no)]

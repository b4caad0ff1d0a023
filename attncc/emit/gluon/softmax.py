"""How scores of a tile become weights: against the largest score of each row so far, or one number for all rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Softmax:
    """The lines behind the scores of a tile, which lie in `dot`, still to be scaled, if `folds`, else in `exponent`.

    `shift` is what is subtracted from every score where scores are bounded, None where the largest of a row is.
    `hides` says that all keys of a row may be hidden.
    """

    folds: bool
    shift: float | None
    hides: bool

    @property
    def scores(self) -> str:
        """The scores in base 2."""
        return "dot * scale_log2" if self.folds else "exponent"

    @property
    def largest(self) -> str:
        """The largest score of each row of the tile."""
        return "gl.max(dot, 1) * scale_log2" if self.folds else "gl.max(exponent, 1)"

    @property
    def bounded(self) -> str:
        """The weights of bounded scores."""
        return f"weight = gl.exp2({self.scores}{' - SHIFT' if self.shift else ''})"

    @property
    def first(self) -> list[str]:
        """Of the first tile: `weight`, `row_sum`, and `row_max` if it is needed."""
        if self.shift is not None:
            return [f"{self.bounded}  # scores are bounded: no largest is searched for", "row_sum = gl.sum(weight, 1)"]
        return [
            f"row_max = {self.largest}",
            'shift = gl.where(row_max == float("-inf"), 0.0, row_max)  # a row that has seen no key yet',
            f"weight = gl.exp2({self.scores} - shift[:, None])",
            "row_sum = gl.sum(weight, 1)",
        ]

    @property
    def next(self) -> list[str]:
        """Of another tile; by `decay` the rows of what was summed up until here are multiplied."""
        if self.shift is not None:
            return [self.bounded, "row_sum += gl.sum(weight, 1)"]
        return [
            f"new_max = gl.maximum(row_max, {self.largest})",
            'shift = gl.where(new_max == float("-inf"), 0.0, new_max)' if self.hides else "shift = new_max",
            f"weight = gl.exp2({self.scores} - shift[:, None])",
            "decay = gl.exp2(row_max - shift)",
            "row_sum = row_sum * decay + gl.sum(weight, 1)",
            "row_max = new_max",
        ]

    @property
    def reference(self) -> str:
        """What was subtracted from the scores of a row."""
        return "row_max" if self.shift is None else "SHIFT" if self.shift else "0.0"

    @property
    def lse2(self) -> str:
        """The logarithm of the sum of a row, in base 2."""
        return "gl.log2(row_sum)" if self.reference == "0.0" else f"({self.reference} + gl.log2(row_sum))"

"""How kernels read what tiles are judged by, minima and maxima of captured values: as arguments and as lines."""

from __future__ import annotations

from collections.abc import Mapping

from attncc.analysis.statistics import Statistic
from attncc.analysis.tiles import TileTest
from attncc.emit.kernel import Argument
from attncc.emit.triton.plan import Draft, Role
from attncc.ir import Expr, Scalar


def statistics_of(
    draft: Draft, test: TileTest, tiles: Mapping[str, str]
) -> tuple[list[tuple[Argument, Role]], list[str]]:
    """The arguments and the lines that read what a tile test needs of captured tensors, at the tiles named by axis."""
    arguments = [pair for statistic in test.statistics for pair in _statistic_arguments(statistic)]
    names = {str(p.value): f"stat{s.number}_{word}" for s in test.statistics for word, p in _words(s)}
    draft.printer.leaves = {**draft.printer.leaves, **names}
    return arguments, [_read_statistic(s, word, tiles[s.axis]) for s in test.statistics for word, _ in _words(s)]


def _words(statistic: Statistic) -> tuple[tuple[str, Expr], ...]:
    parts = (("min", statistic.least), ("max", statistic.largest), ("nan", statistic.nan))
    return parts if statistic.expr.scalar is Scalar.FLOAT else parts[:2]


def _statistic_arguments(statistic: Statistic) -> list[tuple[Argument, Role]]:
    """Minima and maxima for each tile, as tensors [B or 1, Hq or 1, tiles]; a stride is 0 where all share a row."""
    number = statistic.number
    type_ = {Scalar.INDEX: "*i64", Scalar.FLOAT: "*fp32", Scalar.BOOL: "*i1"}[statistic.expr.scalar]
    made = [
        (Argument(f"stat{number}_{word}_ptr", "*i1" if word == "nan" else type_), Role(f"statistic_{word}", number))
        for word, _ in _words(statistic)
    ]
    strides = [
        (Argument(f"stat{number}_stride_{axis}", "i32"), Role("statistic_stride", number, d))
        for d, axis in enumerate("bh")
    ]
    return made + strides


def _read_statistic(statistic: Statistic, word: str, tile: str) -> str:
    name = f"stat{statistic.number}"
    at = f"b * {name}_stride_b + h * {name}_stride_h + {tile}"
    return f"{name}_{word} = tl.load({name}_{word}_ptr + {at})"

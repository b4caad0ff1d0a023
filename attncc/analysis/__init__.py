"""Facts about expressions: what they depend on, between which bounds they lie, which tiles of a mask they leave."""

from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import TRANSFER, Interval
from attncc.analysis.numbers import PYTHON, ArrayNumbers, Numbers, PythonNumbers
from attncc.analysis.shape import depends, reads_captures, side
from attncc.analysis.statistics import Statistic
from attncc.analysis.tiles import BOX_NAMES, TileTest, Visit, classify, tile_test

__all__ = [
    "BOX_NAMES",
    "PYTHON",
    "TRANSFER",
    "ArrayNumbers",
    "Box",
    "Interval",
    "Numbers",
    "PythonNumbers",
    "Statistic",
    "TileTest",
    "Visit",
    "bounds",
    "classify",
    "depends",
    "reads_captures",
    "side",
    "tile_test",
]

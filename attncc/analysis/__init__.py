"""Facts about expressions: what they depend on, between which bounds they lie, which tiles of a mask they leave."""

from attncc.analysis.bands import Bands, Dense, MaskShape, Range, Tabulated, summarize_mask
from attncc.analysis.bounds import Box, bounds
from attncc.analysis.interval import Interval
from attncc.analysis.numbers import PYTHON, ArrayNumbers, Numbers, PythonNumbers
from attncc.analysis.shape import depends, reads_captures, side
from attncc.analysis.statistics import Statistic
from attncc.analysis.tiles import BOX_NAMES, TileTest, Visit, classify, tile_test
from attncc.analysis.transfer import TRANSFER

__all__ = [
    "BOX_NAMES",
    "PYTHON",
    "TRANSFER",
    "ArrayNumbers",
    "Bands",
    "Box",
    "Dense",
    "Interval",
    "MaskShape",
    "Numbers",
    "PythonNumbers",
    "Range",
    "Statistic",
    "Tabulated",
    "TileTest",
    "Visit",
    "bounds",
    "classify",
    "depends",
    "reads_captures",
    "side",
    "summarize_mask",
    "tile_test",
]

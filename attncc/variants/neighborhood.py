"""Windows in one, two and three dimensions, tokens in row-major order: NATTEN's semantics, halos, axes, shifts."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, Score, mask, recipe, score

NATTEN = "Hassani et al. 2022, arXiv:2204.07143"


def near(q: Tensor, kv: Tensor, size: int, window: int) -> Tensor:
    """On one axis: is kv among the `window` positions nearest to q? At a border the window moves inwards, whole."""
    start = torch.clamp(q - window // 2, 0, size - window)
    return (start <= kv) & (kv < start + window)


@recipe
def neighborhood_1d(length: int = 1024, window: int = 65) -> Mask:
    """The `window` keys nearest to the query among `length`."""

    @mask(formula="a ≤ j < a + w, a = clip(i − ⌊w/2⌋, 0, L − w)", citation=NATTEN)
    def neighborhood_1d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return near(q_idx, kv_idx, length, window)

    return neighborhood_1d


@recipe
def neighborhood_2d(height: int = 32, width: int = 32, window: int = 7) -> Mask:
    """The window × window pixels nearest to the query on a canvas of height × width."""

    @mask(formula="the 1-D rule on rows and on columns", citation=NATTEN)
    def neighborhood_2d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        rows = near(q_idx // width, kv_idx // width, height, window)
        columns = near(q_idx % width, kv_idx % width, width, window)
        return rows & columns

    return neighborhood_2d


@recipe
def neighborhood_3d(frames: int = 8, height: int = 16, width: int = 16, frame_window: int = 3, window: int = 5) -> Mask:
    """The nearest voxels: `frame_window` frames of window × window pixels each."""

    @mask(formula="the 1-D rule on frames, on rows and on columns", citation="Hassani et al. 2025, arXiv:2504.16922")
    def neighborhood_3d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        area = height * width
        in_frames = near(q_idx // area, kv_idx // area, frames, frame_window)
        in_rows = near(q_idx // width % height, kv_idx // width % height, height, window)
        in_columns = near(q_idx % width, kv_idx % width, width, window)
        return in_frames & in_rows & in_columns

    return neighborhood_3d


@recipe
def dilated_neighborhood_1d(length: int = 1024, window: int = 33, dilation: int = 4) -> Mask:
    """The `window` nearest keys among those that share the query's residue modulo `dilation`."""

    @mask(
        formula="i ≡ j (mod d), and the 1-D rule on ⌊i/d⌋, ⌊j/d⌋ among that residue's positions",
        citation="Hassani & Shi 2022, arXiv:2209.15001",
    )
    def dilated_neighborhood_1d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        residue = q_idx % dilation
        members = (length - residue + dilation - 1) // dilation
        start = torch.minimum(torch.clamp(q_idx // dilation - window // 2, min=0), members - window)
        kv_member = kv_idx // dilation
        return (kv_idx % dilation == residue) & (start <= kv_member) & (kv_member < start + window)

    return dilated_neighborhood_1d


@recipe
def strided_neighborhood_2d(height: int = 32, width: int = 32, window: int = 8, stride: int = 4) -> Mask:
    """Groups of stride × stride queries share the window of their leader; stride = window gives blocks."""

    @mask(
        formula="the 1-D rule on rows and columns, q replaced by min(⌊q/t⌋ t + ⌊t/2⌋, L − 1)",
        citation="Hassani et al. 2025, arXiv:2504.16922",
    )
    def strided_neighborhood_2d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        leader_row = torch.clamp(q_idx // width // stride * stride + stride // 2, max=height - 1)
        leader_column = torch.clamp(q_idx % width // stride * stride + stride // 2, max=width - 1)
        rows = near(leader_row, kv_idx // width, height, window)
        return rows & near(leader_column, kv_idx % width, width, window)

    return strided_neighborhood_2d


@recipe
def neighborhood_bias(table: Tensor, width: int = 32, window: int = 7) -> Score:
    """A learned bias per head and offset, for use with `neighborhood_2d`; larger offsets share the outermost values.

    table: float [heads, 2·window − 1, 2·window − 1].
    """

    @score(
        formula="s + T[h, clip(y_j − y_i) + w − 1, clip(x_j − x_i) + w − 1], clip to ±(w − 1)",
        citation=NATTEN,
        captures={"table": "float[heads, _, _]"},
    )
    def neighborhood_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        down = torch.clamp(kv_idx // width - q_idx // width + window - 1, 0, 2 * window - 2)
        right = torch.clamp(kv_idx % width - q_idx % width + window - 1, 0, 2 * window - 2)
        return score + table[h, down, right]

    return neighborhood_bias


@recipe
def halo_2d(width: int = 32, block: int = 8, halo: int = 3) -> Mask:
    """Blocks of block × block queries; each sees its block and `halo` pixels around it."""

    @mask(formula="B⌊q/B⌋ − h ≤ k < B⌊q/B⌋ + B + h, on both axes", citation="Vaswani et al. 2021, arXiv:2103.12731")
    def halo_2d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        top = q_idx // width // block * block
        left = q_idx % width // block * block
        kv_row = kv_idx // width
        kv_column = kv_idx % width
        rows = (top - halo <= kv_row) & (kv_row < top + block + halo)
        return rows & (left - halo <= kv_column) & (kv_column < left + block + halo)

    return halo_2d


@recipe
def axial_2d(width: int = 32) -> Mask:
    """The query's row and its column."""

    @mask(formula="y_i = y_j ∨ x_i = x_j", citation="Ho et al. 2019, arXiv:1912.12180")
    def axial_2d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx // width == kv_idx // width) | (q_idx % width == kv_idx % width)

    return axial_2d


@recipe
def shifted_window_2d(width: int = 32, window: int = 8, shift: int = 4) -> Mask:
    """Windows of window × window pixels, moved by `shift` from the corner; what is cut off at a border stays alone."""

    @mask(formula="⌊(q − t)/w⌋ = ⌊(k − t)/w⌋, on both axes", citation="Liu et al. 2021, arXiv:2103.14030")
    def shifted_window_2d(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        rows = (q_idx // width - shift) // window == (kv_idx // width - shift) // window
        columns = (q_idx % width - shift) // window == (kv_idx % width - shift) // window
        return rows & columns

    return shifted_window_2d

"""Video: sliding tiles, radial decay, views and times, spatial and temporal heads."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, mask, recipe

SVG = "Xi et al. 2025, arXiv:2502.01776"


def near_tile(q: Tensor, kv: Tensor, tiles: int, window: int) -> Tensor:
    """On one axis of tiles: is kv in the window around q's tile? At a border the window's centre moves inwards."""
    centre = torch.clamp(q, window // 2, tiles - 1 - window // 2)
    return abs(centre - kv) <= window // 2


@recipe
def sliding_tile(frames: int = 3, rows: int = 6, columns: int = 6, window: int = 3, volume: int = 64) -> Mask:
    """Local attention that moves tile by tile, tokens in tile-major order, followed by text that all see.

    frames × rows × columns tiles of `volume` tokens each; `window` (odd) tiles on each axis.
    """

    @mask(
        formula="|clip(t_i, c, T − 1 − c) − t_j| ≤ c = ⌊w/2⌋, on each axis of tiles; text sees and is seen by all",
        citation="Zhang et al. 2025, arXiv:2502.04507",
    )
    def sliding_tile(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        video = frames * rows * columns * volume
        text = (q_idx >= video) | (kv_idx >= video)
        q_tile = q_idx // volume
        kv_tile = kv_idx // volume
        in_frames = near_tile(q_tile // (rows * columns), kv_tile // (rows * columns), frames, window)
        in_rows = near_tile(q_tile // columns % rows, kv_tile // columns % rows, rows, window)
        in_columns = near_tile(q_tile % columns, kv_tile % columns, columns, window)
        return text | (in_frames & in_rows & in_columns)

    return sliding_tile


@recipe
def radial(frame: int = 64) -> Mask:
    """A window that narrows as frames lie further apart, thinned where it would be narrower than one token.

    `frame` tokens per frame. The window halves with each doubling of the distance between the frames.
    """

    @mask(
        formula="e = 2^⌊log₂ max(d, 1)⌋, d = |f_i − f_j|: (|p_i − p_j| + 1) e ≤ P, or p_i = p_j ∧ d mod ⌈e/P⌉ = 0",
        citation="Li et al. 2025, arXiv:2506.19852",
    )
    def radial(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        apart = abs(q_idx // frame - kv_idx // frame)
        away = abs(q_idx % frame - kv_idx % frame)
        # Half a frame more keeps the logarithm off its jumps, wherever it is rounded.
        octave = torch.exp2(torch.floor(torch.log2(torch.clamp(apart, min=1) + 0.5))).round().to(torch.int32)
        period = (octave + frame - 1) // frame
        return ((away + 1) * octave <= frame) | ((away == 0) & (apart % period == 0))

    return radial


@recipe
def view_time(times: int = 8, patches: int = 64) -> Mask:
    """A grid of views × times, `patches` tokens per frame: one view at all times, one time in all views."""

    @mask(formula="view_i = view_j ∨ time_i = time_j", citation="Wang et al. 2025, arXiv:2506.18839")
    def view_time(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        same_view = q_idx // (times * patches) == kv_idx // (times * patches)
        same_time = q_idx // patches % times == kv_idx // patches % times
        return same_view | same_time

    return view_time


@recipe
def spatial_head(frame: int = 64, reach: int = 1) -> Mask:
    """A head that looks within nearby frames, and at the first."""

    @mask(formula="|f_i − f_j| ≤ r ∨ j < P, with f = ⌊·/P⌋", citation=SVG)
    def spatial_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (abs(q_idx // frame - kv_idx // frame) <= reach) | (kv_idx < frame)

    return spatial_head


@recipe
def temporal_head(frame: int = 64, width: int = 8) -> Mask:
    """A head that looks at one place through all frames, and at the first frame."""

    @mask(formula="|p_i − p_j| ≤ w ∨ j < P, with p = · mod P", citation=SVG)
    def temporal_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (abs(q_idx % frame - kv_idx % frame) <= width) | (kv_idx < frame)

    return temporal_head


@recipe
def spatial_temporal_heads(spatial: Tensor, frame: int = 64, reach: int = 1, width: int = 8) -> Mask:
    """Each head spatial or temporal, as a profile of the model found. spatial: bool [heads]."""

    @mask(
        formula="|f_i − f_j| ≤ r if head h is spatial, |p_i − p_j| ≤ w otherwise; j < P for all",
        citation=SVG,
        captures={"spatial": "bool[heads]"},
    )
    def spatial_temporal_heads(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        near_frame = abs(q_idx // frame - kv_idx // frame) <= reach
        near_place = abs(q_idx % frame - kv_idx % frame) <= width
        return torch.where(spatial[h], near_frame, near_place) | (kv_idx < frame)

    return spatial_temporal_heads

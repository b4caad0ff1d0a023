"""Images: a gaze that attracts attention, images inside text, text that looks at images."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, Score, mask, recipe, score


@recipe
def foveal_bias(gaze: Tensor, width: int = 32, strength: float = 4.0, spread: float = 6.0) -> Score:
    """A Gaussian bump around a gaze point on an image of `width` columns. gaze: float [batch, 2], as (x, y)."""

    @score(
        formula="s + a exp(−((x_j − x_g)² + (y_j − y_g)²) / (2σ²))",
        citation="Zhuang et al. 2024, arXiv:2407.05578",
        captures={"gaze": "float[batch, 2]"},
    )
    def foveal_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        right = (kv_idx % width - gaze[b, 0]) / spread
        down = (kv_idx // width - gaze[b, 1]) / spread
        return score + strength * torch.exp(-0.5 * (right * right + down * down))

    return foveal_bias


@recipe
def vision_cross_attention(spans: Tensor, tokens: int = 64) -> Mask:
    """Text that sees the image before it, `tokens` tokens each. spans: int [images, 2], which queries see it."""

    @mask(
        formula="first_n ≤ i < end_n, with n = ⌊j/T⌋",
        citation="Alayrac et al. 2022, arXiv:2204.14198",
        captures={"spans": "int[_, 2]"},
    )
    def vision_cross_attention(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        image = kv_idx // tokens
        return (spans[image, 0] <= q_idx) & (q_idx < spans[image, 1])

    return vision_cross_attention


@recipe
def image_and_text(image_ids: Tensor) -> Mask:
    """Causal text with images inside, each of which sees all of itself. image_ids: int [batch, kv_len], −1 for text."""

    @mask(
        formula="i ≥ j ∨ (m_i = m_j ∧ m_i ≥ 0)",
        citation="Zhou et al. 2024, arXiv:2408.11039",
        captures={"image_ids": "int[batch, kv_len]"},
    )
    def image_and_text(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        image = image_ids[b, q_idx]
        return (q_idx >= kv_idx) | ((image == image_ids[b, kv_idx]) & (image >= 0))

    return image_and_text

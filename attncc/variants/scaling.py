"""What is done to a score whatever its position: caps, temperatures, spans."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Score, recipe, score


@recipe
def soft_cap(cap: float = 30.0) -> Score:
    """Scores bent so that they stay within ±cap."""

    @score(formula="c tanh(s / c)", citation="Gemma Team 2024, arXiv:2408.00118")
    def soft_cap(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return soft_cap


@recipe
def head_temperature(temperature: Tensor) -> Score:
    """A learned temperature for each head, as after normalising queries and keys. temperature: float [heads]."""

    @score(
        formula="τ_h s",
        citation="Henry et al. 2020, arXiv:2010.04245",
        captures={"temperature": "float[heads]"},
    )
    def head_temperature(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * temperature[h]

    return head_temperature


@recipe
def scalable_softmax(strength: Tensor) -> Score:
    """Scores sharpened with the logarithm of the number of visible keys. strength: float [heads]."""

    @score(
        formula="c_h log(i + 1) s",
        citation="Nakanishi 2025, arXiv:2501.19399",
        captures={"strength": "float[heads]"},
    )
    def scalable_softmax(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * (strength[h] * torch.log(q_idx + 1))

    return scalable_softmax


@recipe
def adaptive_span(span: Tensor, ramp: float = 32.0) -> Score:
    """A learned span for each head, beyond which attention fades to nothing over `ramp` keys. span: float [heads]."""

    @score(
        formula="s + log clip((R + z_h − (i − j)) / R, 0, 1)",
        citation="Sukhbaatar et al. 2019, arXiv:1905.07799",
        captures={"span": "float[heads]"},
    )
    def adaptive_span(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        fade = (ramp + span[h] - (q_idx - kv_idx)) / ramp
        return torch.where(fade > 0, score + torch.log(torch.clamp(fade, 1e-6, 1.0)), -float("inf"))

    return adaptive_span

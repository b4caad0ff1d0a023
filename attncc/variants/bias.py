"""What is added to a score by position: ALiBi, learned tables, decay, re-weighting, and the like."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attncc.variants.define import Score, recipe, score


def alibi_slopes(heads: int) -> Tensor:
    """The slopes that ALiBi prescribes: 2^(−8/n), 2^(−16/n), … for n heads, n a power of two; others interleave."""
    closest = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / closest) for head in range(closest)]
    between = [2 ** (-4 * (2 * head + 1) / closest) for head in range(heads - closest)]
    return torch.tensor(slopes + between)


@recipe
def alibi(slopes: Tensor) -> Score:
    """A penalty linear in distance, a slope for each head. slopes: float [heads], learned or `alibi_slopes(heads)`."""

    @score(
        formula="s − m_h (i − j)",
        citation="Press et al. 2021, arXiv:2108.12409",
        captures={"slopes": "float[heads]"},
    )
    def alibi(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - slopes[h] * (q_idx - kv_idx)

    return alibi


@recipe
def alibi_symmetric(slopes: Tensor) -> Score:
    """ALiBi for encoders: the penalty grows on both sides. slopes: float [heads]."""

    @score(
        formula="s − m_h |i − j|",
        citation="Press et al. 2021, arXiv:2108.12409",
        captures={"slopes": "float[heads]"},
    )
    def alibi_symmetric(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - slopes[h] * abs(q_idx - kv_idx)

    return alibi_symmetric


@recipe
def t5_bias(table: Tensor, buckets: int = 32, max_distance: int = 128) -> Score:
    """A learned bias per head and bucket of relative position, both directions. table: float [heads, buckets].

    Half of the buckets are for keys ahead. In each half, small distances have a bucket each, larger ones share buckets
    whose width grows with the logarithm of the distance, and everything from `max_distance` on falls into the last.
    """
    half = buckets // 2
    exact = half // 2
    per_log = (half - exact) / math.log(max_distance / exact)

    @score(
        formula="s + T[h, bucket(j − i)]",
        citation="Raffel et al. 2019, arXiv:1910.10683",
        captures={"table": "float[heads, _]"},
    )
    def t5_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = abs(kv_idx - q_idx)
        # The small number keeps powers of two, where buckets begin, off the jump of the rounding.
        beyond = exact + (torch.log(torch.clamp(distance, min=exact) / exact) * per_log + 1e-4).to(torch.int32)
        bucket = torch.where(distance < exact, distance, torch.clamp(beyond, max=half - 1))
        return score + table[h, bucket + torch.where(kv_idx > q_idx, half, 0)]

    return t5_bias


@recipe
def clipped_relative_bias(table: Tensor, reach: int = 32) -> Score:
    """A learned bias per head and relative position, clipped at `reach`. table: float [heads, 2·reach + 1]."""

    @score(
        formula="s + T[h, clip(j − i, −r, r) + r]",
        citation="Shaw et al. 2018, arXiv:1803.02155 (its scalar form)",
        captures={"table": "float[heads, _]"},
    )
    def clipped_relative_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[h, torch.clamp(kv_idx - q_idx, -reach, reach) + reach]

    return clipped_relative_bias


@recipe
def relative_bias(table: Tensor) -> Score:
    """A learned bias per head and relative position. table: float [heads, q_len + kv_len − 1]."""

    @score(
        formula="s + T[h, j − i + m − 1], for m queries",
        citation="Liu et al. 2021, arXiv:2103.14030 (in one dimension)",
        captures={"table": "float[heads, _]"},
    )
    def relative_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, q_len: Tensor) -> Tensor:
        return score + table[h, kv_idx - q_idx + q_len - 1]

    return relative_bias


@recipe
def pair_bias(bias: Tensor) -> Score:
    """A bias for each pair, from a pair representation. bias: float [batch, heads, q_len, kv_len]."""

    @score(
        formula="s + B[b, h, i, j]",
        citation="Jumper et al. 2021, doi:10.1038/s41586-021-03819-2",
        captures={"bias": "float[batch, heads, q_len, kv_len]"},
    )
    def pair_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + bias[b, h, q_idx, kv_idx]

    return pair_bias


@recipe
def graph_distance_bias(table: Tensor, hops: Tensor) -> Score:
    """A learned bias per head and shortest-path distance in a graph.

    table: float [heads, distances]; hops: int [batch, q_len, kv_len].
    """

    @score(
        formula="s + T[h, hops(i, j)]",
        citation="Ying et al. 2021, arXiv:2106.05234",
        captures={"table": "float[heads, _]", "hops": "int[batch, q_len, kv_len]"},
    )
    def graph_distance_bias(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[h, hops[b, q_idx, kv_idx]]

    return graph_distance_bias


@recipe
def forgetting(log_forget: Tensor) -> Score:
    """A data-dependent decay between key and query. log_forget: float [batch, heads, kv_len], running sums of log f."""

    @score(
        formula="s + F_i − F_j, with F_i = Σ_{l ≤ i} log f_l",
        citation="Lin et al. 2025, arXiv:2503.02130",
        captures={"log_forget": "float[batch, heads, kv_len]"},
    )
    def forgetting(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + log_forget[b, h, q_idx] - log_forget[b, h, kv_idx]

    return forgetting


def sandwich_waves(length: int, dimension: int = 128) -> Tensor:
    """Sandwich's bias by distance: Σ_t cos(distance / 10000^(2t/dimension)), for distances below `length`."""
    exponents = -2.0 / dimension * torch.arange(1, dimension // 2 + 1, dtype=torch.float64)
    angles = torch.arange(length)[:, None] * 10000.0**exponents
    return torch.cos(angles).sum(dim=-1).float()


@recipe
def sandwich(ratios: Tensor, waves: Tensor) -> Score:
    """The inner products of sinusoidal positions, compressed for each head.

    ratios: float [heads], prescribed as 8h / heads for h from 1; waves: float [distances], as `sandwich_waves` makes.
    """

    @score(
        formula="s + (1/r_h) Σ_t cos((i − j) / 10000^(2t/d))",
        citation="Chi et al. 2022, arXiv:2212.10356",
        captures={"waves": "float[_]", "ratios": "float[heads]"},
    )
    def sandwich(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + waves[abs(q_idx - kv_idx)] / ratios[h]

    return sandwich


@recipe
def kerple_log(strength: Tensor, sharpness: Tensor) -> Score:
    """A penalty logarithmic in distance, learned for each head. strength, sharpness: float [heads], positive."""

    @score(
        formula="s − r_h log(1 + c_h |i − j|)",
        citation="Chi et al. 2022, arXiv:2205.09921",
        captures={"strength": "float[heads]", "sharpness": "float[heads]"},
    )
    def kerple_log(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - strength[h] * torch.log1p(sharpness[h] * abs(q_idx - kv_idx))

    return kerple_log


@recipe
def gaussian_window(width: Tensor) -> Score:
    """A Gaussian around the query, its width learned for each head. width: float [heads]."""

    @score(
        formula="s − (i − j)² / (2σ_h²)",
        citation="Yang et al. 2018, arXiv:1810.10182",
        captures={"width": "float[heads]"},
    )
    def gaussian_window(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        away = (q_idx - kv_idx) / width[h]
        return score - 0.5 * away * away

    return gaussian_window


@recipe
def key_reweighting(weights: Tensor) -> Score:
    """Attention to each key times a weight, then normalised; weight 0 masks. weights: float [batch, kv_len]."""

    @score(
        formula="s + log w_j",
        citation="Aniraj et al. 2025, arXiv:2506.08915",
        captures={"weights": "float[batch, kv_len]"},
    )
    def key_reweighting(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + torch.log(weights[b, kv_idx])

    return key_reweighting

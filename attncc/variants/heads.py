"""Heads that differ: sharded contexts, local beside strided, windows and spans of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, mask, recipe


@recipe
def context_sharding(block: int = 64, local: int = 4, stride: int = 8) -> Mask:
    """A band of `local` blocks for all, and every `stride`-th block, another set for each head: together all of it."""

    @mask(
        formula="i ≥ j ∧ (⌊i/B⌋ − ⌊j/B⌋ < L ∨ (⌊j/B⌋ + h) mod S = 0)",
        citation="Lin et al. 2024, arXiv:2407.17678",
    )
    def context_sharding(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        local_blocks = q_idx // block - kv_idx // block < local
        own_blocks = (kv_idx // block + h) % stride == 0
        return (q_idx >= kv_idx) & (local_blocks | own_blocks)

    return context_sharding


@recipe
def local_and_strided_heads(window: int = 128, stride: int = 16) -> Mask:
    """The first half of the heads looks nearby, the second at every `stride`-th key."""

    @mask(
        formula="i ≥ j ∧ (i − j < w if h < H/2, else (i − j) mod l = 0)",
        citation="Child et al. 2019, arXiv:1904.10509 (its two heads)",
    )
    def local_and_strided_heads(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, heads: Tensor) -> Tensor:
        distance = q_idx - kv_idx
        return (distance >= 0) & torch.where(h < heads // 2, distance < window, distance % stride == 0)

    return local_and_strided_heads


@recipe
def head_windows(windows: Tensor) -> Mask:
    """A causal window of another size for each head. windows: int [heads]."""

    @mask(
        formula="0 ≤ i − j < w_h",
        citation="Sukhbaatar et al. 2019, arXiv:1905.07799 (its hard form)",
        captures={"windows": "int[heads]"},
    )
    def head_windows(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < windows[h])

    return head_windows


@recipe
def streaming_heads(retrieval: Tensor, sinks: int = 4, window: int = 256) -> Mask:
    """Retrieval heads see everything before them, the others a window and the sinks. retrieval: bool [heads]."""

    @mask(
        formula="i ≥ j ∧ (r_h ∨ j < s ∨ i − j < w)",
        citation="Xiao et al. 2024, arXiv:2410.10819",
        captures={"retrieval": "bool[heads]"},
    )
    def streaming_heads(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (retrieval[h] | (kv_idx < sinks) | (q_idx - kv_idx < window))

    return streaming_heads

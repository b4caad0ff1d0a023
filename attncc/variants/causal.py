"""Who comes first: full, causal, prefix and block-causal masks."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, mask, recipe


@mask(formula="true", citation="Vaswani et al. 2017, arXiv:1706.03762")
def full(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Every query sees every key."""
    return q_idx.new_ones((), dtype=torch.bool)


@mask(formula="i ≥ j", citation="Vaswani et al. 2017, arXiv:1706.03762")
def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """A query sees itself and what lies before it; query 0 stands at key 0 (top-left)."""
    return q_idx >= kv_idx


@mask(formula="i + n − m ≥ j, for m queries and n keys", citation="Dao 2023, arXiv:2307.08691")
def causal_bottom_right(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, q_len: Tensor, kv_len: Tensor) -> Tensor:
    """Causal, with the last query at the last key: what decoding with a cache needs."""
    return q_idx + kv_len - q_len >= kv_idx


@recipe
def prefix_lm(prefix: int = 128) -> Mask:
    """The first `prefix` keys are seen by all, the others causally."""

    @mask(formula="j < p ∨ i ≥ j", citation="Raffel et al. 2019, arXiv:1910.10683")
    def prefix_lm(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx < prefix) | (q_idx >= kv_idx)

    return prefix_lm


@recipe
def prefix_lm_lengths(prefix_lengths: Tensor) -> Mask:
    """Prefix LM with a prefix of its own for each sequence. prefix_lengths: int [batch]."""

    @mask(
        formula="j < p_b ∨ i ≥ j",
        citation="Raffel et al. 2019, arXiv:1910.10683",
        captures={"prefix_lengths": "int[batch]"},
    )
    def prefix_lm_lengths(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx < prefix_lengths[b]) | (q_idx >= kv_idx)

    return prefix_lm_lengths


@recipe
def block_causal(block: int = 64) -> Mask:
    """Causal between blocks (frames, drafts), full inside each."""

    @mask(formula="⌊i/B⌋ ≥ ⌊j/B⌋", citation="Wang et al. 2018, arXiv:1808.08583")
    def block_causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx // block >= kv_idx // block

    return block_causal

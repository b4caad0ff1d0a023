"""Chosen keys: global tokens, block lists, selected blocks, hash buckets."""

from __future__ import annotations

from torch import Tensor

from attncc.variants.define import Mask, mask, recipe


@recipe
def global_tokens(is_global: Tensor, radius: int = 128) -> Mask:
    """A window, and tokens that see and are seen by all. is_global: bool [batch, kv_len]."""

    @mask(
        formula="|i − j| ≤ r ∨ g_i ∨ g_j",
        citation="Beltagy et al. 2020, arXiv:2004.05150",
        captures={"is_global": "bool[batch, kv_len]"},
    )
    def global_tokens(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (abs(q_idx - kv_idx) <= radius) | is_global[b, q_idx] | is_global[b, kv_idx]

    return global_tokens


@recipe
def bigbird(random_blocks: Tensor, block: int = 64) -> Mask:
    """The first block seeing and seen by all, neighbouring blocks, two random ones. random_blocks: int [blocks, 2]."""

    @mask(
        formula="|β_i − β_j| ≤ 1 ∨ β_i = 0 ∨ β_j = 0 ∨ β_j ∈ R[β_i], with β = ⌊·/B⌋",
        citation="Zaheer et al. 2020, arXiv:2007.14062",
        captures={"random_blocks": "int[_, 2]"},
    )
    def bigbird(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_block = q_idx // block
        kv_block = kv_idx // block
        near = (abs(q_block - kv_block) <= 1) | (q_block == 0) | (kv_block == 0)
        return near | (random_blocks[q_block, 0] == kv_block) | (random_blocks[q_block, 1] == kv_block)

    return bigbird


@recipe
def block_sparse(blocks: Tensor, block: int = 64) -> Mask:
    """Which blocks of keys each block of queries sees, for each head. blocks: bool [heads, q blocks, kv blocks]."""

    @mask(
        formula="M[h, ⌊i/B⌋, ⌊j/B⌋]",
        citation="Dao et al. 2022, arXiv:2205.14135 (its block-sparse form)",
        captures={"blocks": "bool[heads, _, _]"},
    )
    def block_sparse(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return blocks[h, q_idx // block, kv_idx // block]

    return block_sparse


@recipe
def selected_blocks(selected: Tensor, block: int = 64) -> Mask:
    """Causal; the query's own block and two that a router chose for it. selected: int [batch, heads, q_len, 2]."""

    @mask(
        formula="i ≥ j ∧ (⌊j/B⌋ = ⌊i/B⌋ ∨ ⌊j/B⌋ ∈ S[b, h, i])",
        citation="Lu et al. 2025, arXiv:2502.13189",
        captures={"selected": "int[batch, heads, q_len, 2]"},
    )
    def selected_blocks(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        kv_block = kv_idx // block
        chosen = (selected[b, h, q_idx, 0] == kv_block) | (selected[b, h, q_idx, 1] == kv_block)
        return (q_idx >= kv_idx) & (chosen | (q_idx // block == kv_block))

    return selected_blocks


@recipe
def hash_buckets(q_buckets: Tensor, kv_buckets: Tensor) -> Mask:
    """Causal between queries and keys of one bucket. q_buckets: int [batch, heads, q_len], kv_buckets alike, kv_len."""

    @mask(
        formula="i ≥ j ∧ hash(q_i) = hash(k_j)",
        citation="Kitaev et al. 2020, arXiv:2001.04451; Pagliardini et al. 2023, arXiv:2306.01160",
        captures={"q_buckets": "int[batch, heads, q_len]", "kv_buckets": "int[batch, heads, kv_len]"},
    )
    def hash_buckets(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_buckets[b, h, q_idx] == kv_buckets[b, h, kv_idx])

    return hash_buckets

"""Drafts that branch, and drafts beside what they copy: speculative decoding and block diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.variants.define import Mask, mask, recipe


@recipe
def tree_ancestors(ancestors: Tensor, prefix: int = 256) -> Mask:
    """A tree of drafted tokens behind a cached prefix; each sees the prefix, its ancestors and itself.

    The queries are the nodes; the keys are `prefix` cached tokens, then the nodes. ancestors: bool [nodes, nodes].
    """

    @mask(
        formula="j < p ∨ A[i, j − p]",
        citation="Miao et al. 2023, arXiv:2305.09781",
        captures={"ancestors": "bool[q_len, q_len]"},
    )
    def tree_ancestors(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx < prefix) | ancestors[q_idx, torch.clamp(kv_idx - prefix, min=0)]

    return tree_ancestors


@recipe
def tree_intervals(enter: Tensor, leave: Tensor, prefix: int = 256) -> Mask:
    """The same from the times at which a walk of the tree enters and leaves each node: linear memory.

    A node is the ancestor of those entered between its own times. enter, leave: int [batch, nodes].
    """

    @mask(
        formula="j < p ∨ enter_{j−p} ≤ enter_i < leave_{j−p}",
        citation="Cai et al. 2024, arXiv:2401.10774 (its tree attention)",
        captures={"enter": "int[batch, q_len]", "leave": "int[batch, q_len]"},
    )
    def tree_intervals(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        node = torch.clamp(kv_idx - prefix, min=0)
        entered = enter[b, q_idx]
        return (kv_idx < prefix) | ((enter[b, node] <= entered) & (entered < leave[b, node]))

    return tree_intervals


def walk_times(parents: list[int]) -> tuple[Tensor, Tensor]:
    """When a depth-first walk enters and leaves each node; `parents[n] < n` is the parent of node n, −1 of a root."""
    sizes = [1] * len(parents)
    for node in reversed(range(len(parents))):
        if parents[node] >= 0:
            sizes[parents[node]] += sizes[node]
    enter = [0] * len(parents)
    free: dict[int, int] = {-1: 0}  # the first time not yet given to a child
    for node, parent in enumerate(parents):
        enter[node] = free[parent]
        free[parent] += sizes[node]
        free[node] = enter[node] + 1
    leave = [start + size for start, size in zip(enter, sizes, strict=True)]
    return torch.tensor(enter), torch.tensor(leave)


@recipe
def draft_blocks(prefix: int = 256, block: int = 8) -> Mask:
    """Training of a head that drafts `block` tokens at once from each position of its block, behind a prefix."""

    @mask(
        formula="j < p ∨ (⌊i/n⌋ = ⌊(j−p)/n⌋ ∧ (j−p) mod n ≤ i mod n)",
        citation="Hu et al. 2026, arXiv:2606.18394",
    )
    def draft_blocks(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        drafted = kv_idx - prefix
        same_block = q_idx // block == drafted // block
        return (kv_idx < prefix) | (same_block & (drafted % block <= q_idx % block))

    return draft_blocks


@recipe
def block_diffusion(length: int = 512, block: int = 16) -> Mask:
    """`length` noised tokens, then the same tokens clean, for training all blocks of a diffusion at once.

    A noised block sees itself and the clean blocks before it; clean blocks see each other causally.
    """

    @mask(
        formula="both noised: β_i = β_j; i noised, j clean: β_i > β_j; both clean: β_i ≥ β_j, with β the block",
        citation="Arriola et al. 2025, arXiv:2503.09573",
    )
    def block_diffusion(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_clean = q_idx >= length
        kv_clean = kv_idx >= length
        q_block = torch.where(q_clean, q_idx - length, q_idx) // block
        kv_block = torch.where(kv_clean, kv_idx - length, kv_idx) // block
        own = ~q_clean & ~kv_clean & (q_block == kv_block)
        before = ~q_clean & kv_clean & (q_block > kv_block)
        return own | before | (q_clean & kv_clean & (q_block >= kv_block))

    return block_diffusion

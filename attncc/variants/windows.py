"""Keys nearby: windows in every convention, dilated and strided ones, chunks and blocks."""

from __future__ import annotations

from torch import Tensor

from attncc.variants.define import Mask, mask, recipe


@recipe
def sliding_window(window: int = 256) -> Mask:
    """Causal, `window` keys in all, the query's own included (the convention of Mistral and Hugging Face)."""

    @mask(formula="0 ≤ i − j < w", citation="Jiang et al. 2023, arXiv:2310.06825")
    def sliding_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

    return sliding_window


@recipe
def sliding_window_distance(distance: int = 256) -> Mask:
    """Causal, keys at most `distance` back: distance + 1 keys in all (the convention of FlashAttention's left size)."""

    @mask(formula="0 ≤ i − j ≤ d", citation="Beltagy et al. 2020, arXiv:2004.05150")
    def sliding_window_distance(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx - kv_idx <= distance)

    return sliding_window_distance


@recipe
def local_window(left: int = 128, right: int = 64) -> Mask:
    """Keys at most `left` back and at most `right` ahead; both distances are inclusive."""

    @mask(formula="−r ≤ i − j ≤ l", citation="Dao 2023, arXiv:2307.08691")
    def local_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx - kv_idx <= left) & (kv_idx - q_idx <= right)

    return local_window


@recipe
def bidirectional_window(radius: int = 128) -> Mask:
    """Keys at most `radius` away on either side."""

    @mask(formula="|i − j| ≤ r", citation="Beltagy et al. 2020, arXiv:2004.05150")
    def bidirectional_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return abs(q_idx - kv_idx) <= radius

    return bidirectional_window


@recipe
def dilated_window(radius: int = 32, dilation: int = 4) -> Mask:
    """Every `dilation`-th key, `radius` of them on either side."""

    @mask(formula="|i − j| ≤ r·d ∧ (i − j) mod d = 0", citation="Beltagy et al. 2020, arXiv:2004.05150")
    def dilated_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (abs(q_idx - kv_idx) <= radius * dilation) & ((q_idx - kv_idx) % dilation == 0)

    return dilated_window


@recipe
def strided(stride: int = 64) -> Mask:
    """The last `stride` keys, and before them every `stride`-th."""

    @mask(formula="i ≥ j ∧ (i − j < l ∨ (i − j) mod l = 0)", citation="Child et al. 2019, arXiv:1904.10509")
    def strided(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = q_idx - kv_idx
        return (q_idx >= kv_idx) & ((distance < stride) | (distance % stride == 0))

    return strided


@recipe
def fixed_summary(block: int = 64, summary: int = 8) -> Mask:
    """The query's own block, and the last `summary` keys of every block before it."""

    @mask(formula="i ≥ j ∧ (⌊i/l⌋ = ⌊j/l⌋ ∨ j mod l ≥ l − c)", citation="Child et al. 2019, arXiv:1904.10509")
    def fixed_summary(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        same_block = q_idx // block == kv_idx // block
        return (q_idx >= kv_idx) & (same_block | (kv_idx % block >= block - summary))

    return fixed_summary


@recipe
def sink_window(sinks: int = 4, window: int = 256) -> Mask:
    """A causal window of `window` keys, and the first `sinks` keys for all."""

    @mask(formula="i ≥ j ∧ (j < s ∨ i − j < w)", citation="Xiao et al. 2023, arXiv:2309.17453")
    def sink_window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & ((kv_idx < sinks) | (q_idx - kv_idx < window))

    return sink_window


@recipe
def chunked_local(chunk: int = 256) -> Mask:
    """Causal inside chunks that do not see each other."""

    @mask(formula="i ≥ j ∧ ⌊i/c⌋ = ⌊j/c⌋", citation="Meta AI 2025, Llama 4 (local layers)")
    def chunked_local(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx // chunk == kv_idx // chunk)

    return chunked_local


@recipe
def block_diagonal(block: int = 128) -> Mask:
    """Full attention inside blocks that do not see each other."""

    @mask(formula="⌊i/B⌋ = ⌊j/B⌋", citation="Qiu et al. 2019, arXiv:1911.02972")
    def block_diagonal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx // block == kv_idx // block

    return block_diagonal


@recipe
def block_local(block: int = 64, reach: int = 1) -> Mask:
    """The query's own block and `reach` blocks on either side."""

    @mask(formula="|⌊i/B⌋ − ⌊j/B⌋| ≤ r", citation="Zaheer et al. 2020, arXiv:2007.14062 (its window part)")
    def block_local(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return abs(q_idx // block - kv_idx // block) <= reach

    return block_local

"""Every variant of the gallery, family after family."""

from __future__ import annotations

import functools

from attncc.variants import (
    bias,
    causal,
    composites,
    documents,
    examples,
    heads,
    neighborhood,
    scaling,
    sparse,
    tree,
    video,
    vision,
    windows,
)
from attncc.variants.entry import Entry, canvas, fixed, line

CAUSAL = (
    Entry("full", "causal", "dense", mask=causal.full),
    Entry("causal", "causal", "bands", mask=causal.causal),
    Entry("causal_bottom_right", "causal", "bands", mask=causal.causal_bottom_right),
    Entry("prefix_lm", "causal", "bands", mask=causal.prefix_lm, small=fixed(prefix=20)),
    Entry(
        "prefix_lm_lengths",
        "causal",
        "tabulated",
        mask=causal.prefix_lm_lengths,
        example=examples.lengths("prefix_lengths"),
    ),
    Entry("block_causal", "causal", "bands", mask=causal.block_causal, small=fixed(block=12)),
)

WINDOWS = (
    Entry("sliding_window", "windows", "bands", mask=windows.sliding_window, small=fixed(window=16)),
    Entry(
        "sliding_window_distance", "windows", "bands", mask=windows.sliding_window_distance, small=fixed(distance=16)
    ),
    Entry("local_window", "windows", "bands", mask=windows.local_window, small=fixed(left=20, right=7)),
    Entry("bidirectional_window", "windows", "bands", mask=windows.bidirectional_window, small=fixed(radius=11)),
    Entry("dilated_window", "windows", "bands", mask=windows.dilated_window, small=fixed(radius=6, dilation=3)),
    Entry("strided", "windows", "bands", mask=windows.strided, small=fixed(stride=9)),
    Entry("fixed_summary", "windows", "bands", mask=windows.fixed_summary, small=fixed(block=12, summary=3)),
    Entry("sink_window", "windows", "bands", mask=windows.sink_window, small=fixed(sinks=4, window=16)),
    Entry("chunked_local", "windows", "bands", mask=windows.chunked_local, small=fixed(chunk=24)),
    Entry("block_diagonal", "windows", "bands", mask=windows.block_diagonal, small=fixed(block=24)),
    Entry("block_local", "windows", "bands", mask=windows.block_local, small=fixed(block=12, reach=1)),
)

DOCUMENTS = (
    Entry("documents", "documents", "tabulated", mask=documents.documents, example=examples.doc_ids),
    Entry("causal_documents", "documents", "tabulated", mask=documents.causal_documents, example=examples.doc_ids),
    Entry("document_starts", "documents", "tabulated", mask=documents.document_starts, example=examples.starts),
    Entry("shared_prefix", "documents", "tabulated", mask=documents.shared_prefix, example=examples.families),
    Entry("padding", "documents", "tabulated", mask=documents.padding, example=examples.lengths("lengths")),
    Entry("left_padding", "documents", "tabulated", mask=documents.left_padding, example=examples.left_starts),
    Entry("foreground_only", "documents", "tabulated", mask=documents.foreground_only, example=examples.foreground),
)

BIAS = (
    Entry("alibi", "bias", "bands", score=bias.alibi, mask=causal.causal, example=examples.slopes),
    Entry("alibi_symmetric", "bias", "dense", score=bias.alibi_symmetric, example=examples.slopes),
    Entry("t5_bias", "bias", "dense", score=bias.t5_bias, example=examples.t5_table),
    Entry(
        "clipped_relative_bias",
        "bias",
        "dense",
        score=bias.clipped_relative_bias,
        example=examples.clipped_table,
        small=fixed(reach=10),
    ),
    Entry("relative_bias", "bias", "dense", score=bias.relative_bias, example=examples.relative_table),
    Entry("pair_bias", "bias", "dense", score=bias.pair_bias, example=examples.pairs),
    Entry("graph_distance_bias", "bias", "dense", score=bias.graph_distance_bias, example=examples.graph),
    Entry("forgetting", "bias", "bands", score=bias.forgetting, mask=causal.causal, example=examples.forgetting),
    Entry("sandwich", "bias", "bands", score=bias.sandwich, mask=causal.causal, example=examples.sandwich),
    Entry("kerple_log", "bias", "bands", score=bias.kerple_log, mask=causal.causal, example=examples.kerple),
    Entry(
        "gaussian_window", "bias", "dense", score=bias.gaussian_window, example=examples.per_head("width", 4.0, 40.0)
    ),
    Entry("key_reweighting", "bias", "dense", score=bias.key_reweighting, example=examples.weights),
)

SCALING = (
    Entry("soft_cap", "scaling", "dense", score=scaling.soft_cap),
    Entry(
        "head_temperature",
        "scaling",
        "dense",
        score=scaling.head_temperature,
        example=examples.per_head("temperature", 0.5, 2.0),
    ),
    Entry(
        "scalable_softmax",
        "scaling",
        "bands",
        score=scaling.scalable_softmax,
        mask=causal.causal,
        example=examples.per_head("strength", 0.2, 0.6),
    ),
    Entry(
        "adaptive_span",
        "scaling",
        "tabulated",
        score=scaling.adaptive_span,
        mask=causal.causal,
        example=examples.per_head("span", 5.0, 60.0),
    ),
)

NEIGHBORHOOD = (
    Entry("neighborhood_1d", "neighborhood", "bands", mask=neighborhood.neighborhood_1d, small=line(13)),
    Entry("neighborhood_2d", "neighborhood", "bands", mask=neighborhood.neighborhood_2d, small=canvas(16, window=5)),
    Entry(
        "neighborhood_3d",
        "neighborhood",
        "bands",
        mask=neighborhood.neighborhood_3d,
        small=lambda length: {
            "frames": max(-(-length // 48), 3),
            "height": 6,
            "width": 8,
            "frame_window": 3,
            "window": 3,
        },
    ),
    Entry(
        "dilated_neighborhood_1d", "neighborhood", "bands", mask=neighborhood.dilated_neighborhood_1d, small=line(9, 3)
    ),
    Entry(
        "strided_neighborhood_2d",
        "neighborhood",
        "bands",
        mask=neighborhood.strided_neighborhood_2d,
        small=canvas(16, window=6, stride=3),
    ),
    Entry(
        "neighborhood_bias",
        "neighborhood",
        "dense",
        score=neighborhood.neighborhood_bias,
        example=examples.offsets_2d,
        small=fixed(width=16, window=5),
    ),
    Entry("halo_2d", "neighborhood", "bands", mask=neighborhood.halo_2d, small=fixed(width=16, block=4, halo=2)),
    Entry("axial_2d", "neighborhood", "bands", mask=neighborhood.axial_2d, small=fixed(width=12)),
    Entry(
        "shifted_window_2d",
        "neighborhood",
        "bands",
        mask=neighborhood.shifted_window_2d,
        small=fixed(width=16, window=4, shift=2),
    ),
)

VIDEO = (
    Entry(
        "sliding_tile",
        "video",
        "bands",
        mask=video.sliding_tile,
        small=fixed(frames=3, rows=4, columns=4, window=3, volume=5),
    ),
    Entry("radial", "video", "bands", mask=video.radial, small=fixed(frame=6)),
    Entry("view_time", "video", "bands", mask=video.view_time, small=fixed(times=4, patches=10)),
    Entry("spatial_head", "video", "bands", mask=video.spatial_head, small=fixed(frame=20, reach=1)),
    Entry("temporal_head", "video", "bands", mask=video.temporal_head, small=fixed(frame=20, width=3)),
    Entry(
        "spatial_temporal_heads",
        "video",
        "tabulated",
        mask=video.spatial_temporal_heads,
        example=examples.spatial,
        small=fixed(frame=20, reach=1, width=3),
    ),
)

TREE = (
    Entry(
        "tree_ancestors",
        "tree",
        "tabulated",
        mask=tree.tree_ancestors,
        example=examples.ancestors,
        small=fixed(prefix=30),
        cached=True,
    ),
    Entry(
        "tree_intervals",
        "tree",
        "tabulated",
        mask=tree.tree_intervals,
        example=examples.intervals,
        small=fixed(prefix=30),
        cached=True,
    ),
    Entry("draft_blocks", "tree", "bands", mask=tree.draft_blocks, small=fixed(prefix=30, block=7), cached=True),
    Entry(
        "block_diffusion",
        "tree",
        "bands",
        mask=tree.block_diffusion,
        small=lambda length: {"length": -(-length // 2), "block": 8},
    ),
)

HEADS = (
    Entry(
        "context_sharding",
        "heads",
        "bands",
        mask=heads.context_sharding,
        small=fixed(block=8, local=2, stride=4),
    ),
    Entry(
        "local_and_strided_heads",
        "heads",
        "bands",
        mask=heads.local_and_strided_heads,
        small=fixed(window=16, stride=5),
    ),
    Entry("head_windows", "heads", "tabulated", mask=heads.head_windows, example=examples.head_windows),
    Entry(
        "streaming_heads",
        "heads",
        "tabulated",
        mask=heads.streaming_heads,
        example=examples.retrieval,
        small=fixed(sinks=4, window=16),
    ),
)

SPARSE = (
    Entry(
        "global_tokens",
        "sparse",
        "tabulated",
        mask=sparse.global_tokens,
        example=examples.global_tokens,
        small=fixed(radius=11),
    ),
    Entry("bigbird", "sparse", "tabulated", mask=sparse.bigbird, example=examples.random_blocks, small=fixed(block=12)),
    Entry(
        "block_sparse",
        "sparse",
        "tabulated",
        mask=sparse.block_sparse,
        example=examples.block_table,
        small=fixed(block=12),
    ),
    Entry(
        "selected_blocks",
        "sparse",
        "tabulated",
        mask=sparse.selected_blocks,
        example=examples.selected,
        small=fixed(block=12),
    ),
    Entry("hash_buckets", "sparse", "tabulated", mask=sparse.hash_buckets, example=examples.buckets),
)

VISION = (
    Entry("foveal_bias", "vision", "dense", score=vision.foveal_bias, example=examples.gaze, small=fixed(width=16)),
    Entry(
        "vision_cross_attention",
        "vision",
        "tabulated",
        mask=vision.vision_cross_attention,
        example=examples.image_spans,
        small=fixed(tokens=20),
    ),
    Entry("image_and_text", "vision", "tabulated", mask=vision.image_and_text, example=examples.image_ids),
)

COMPOSITES = (
    Entry(
        "packed_window_alibi",
        "composites",
        "tabulated",
        score=bias.alibi,
        mask=composites.window_in_documents,
        example=examples.with_slopes(examples.doc_ids),
        small=fixed(window=16),
    ),
    Entry(
        "windowed_soft_cap",
        "composites",
        "bands",
        score=scaling.soft_cap,
        mask=windows.sliding_window,
        small=fixed(window=16),
    ),
    Entry(
        "capped_alibi",
        "composites",
        "bands",
        score=composites.capped_alibi,
        mask=causal.causal,
        example=examples.slopes,
    ),
    Entry(
        "capped_temperature",
        "composites",
        "dense",
        score=composites.capped_temperature,
        example=examples.per_head("temperature", 0.5, 2.0),
    ),
)


@functools.cache
def gallery() -> dict[str, Entry]:
    """Every entry by its name, family after family."""
    families = (
        *(CAUSAL, WINDOWS, DOCUMENTS, BIAS, SCALING, NEIGHBORHOOD),
        *(VIDEO, TREE, HEADS, SPARSE, VISION, COMPOSITES),
    )
    return {entry.name: entry for family in families for entry in family}

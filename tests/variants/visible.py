"""Which keys each variant of the gallery sees, written again from its formula as plain NumPy, loops and sets.

Nothing of `attncc.variants` is imported, so that a mistake in the gallery is not repeated. `VISIBLE[name](at)` gives a
bool array that broadcasts to [batch, heads, q_len, kv_len].
"""

from __future__ import annotations

import math

import numpy as np

from tests.variants.problem import band, causal, per_key, per_query


def groups(at, of):
    """Pairs whose positions belong to the same group; `of` names a position's group."""
    return at.pairs(lambda i, j: of(i) == of(j))


def nearest(size, window):
    """For each position the `window` positions nearest to it; ties go to the smaller, borders shift the window."""
    table = {}
    for q in range(size):
        first = q - window // 2
        while first < 0:
            first += 1
        while first + window > size:
            first -= 1
        table[q] = set(range(first, first + window))
    return table


def documents(at):
    return per_query(at.c.doc_ids, at) == per_key(at.c.doc_ids, at)


def document_starts(at):
    begins = np.zeros((at.batch, 1, at.q_len, at.kv_len), dtype=bool)
    for b in range(at.batch):
        for i in range(at.q_len):
            begins[b, 0, i, at.c.starts[b, i] : i + 1] = True
    return begins


def shared_prefix(at):
    seen = np.zeros((at.batch, 1, at.q_len, at.kv_len), dtype=bool)
    for b in range(at.batch):
        ids = at.c.doc_ids[b]
        for i in range(at.q_len):
            for j in range(at.kv_len):
                seen[b, 0, i, j] = (ids[i] == ids[j] and j <= i) or at.c.parents[ids[i]] == ids[j]
    return seen


def neighborhood_1d(at):
    table = nearest(at.p.length, at.p.window)
    return at.pairs(lambda i, j: j in table[i])


def neighborhood_2d(at):
    rows, columns = nearest(at.p.height, at.p.window), nearest(at.p.width, at.p.window)

    def seen(i, j):
        (y, x), (v, u) = divmod(i, at.p.width), divmod(j, at.p.width)
        return v in rows[y] and u in columns[x]

    return at.pairs(seen)


def neighborhood_3d(at):
    shape = (at.p.frames, at.p.height, at.p.width)
    tables = [nearest(*pair) for pair in zip(shape, (at.p.frame_window, at.p.window, at.p.window), strict=True)]
    place = [np.unravel_index(n, shape) for n in range(max(at.q_len, at.kv_len))]
    return at.pairs(lambda i, j: all(k in t[q] for q, k, t in zip(place[i], place[j], tables, strict=True)))


def dilated_neighborhood_1d(at):
    seen = np.zeros((at.q_len, at.kv_len), dtype=bool)
    for residue in range(at.p.dilation):
        members = list(range(residue, at.p.length, at.p.dilation))
        table = nearest(len(members), at.p.window)
        for n, i in enumerate(members):
            for m in table[n]:
                if i < at.q_len and members[m] < at.kv_len:
                    seen[i, members[m]] = True
    return seen


def strided_neighborhood_2d(at):
    rows, columns = nearest(at.p.height, at.p.window), nearest(at.p.width, at.p.window)

    def leader(q, size):
        first = q - q % at.p.stride
        group = range(first, first + at.p.stride)
        return min(group[at.p.stride // 2], size - 1)

    def seen(i, j):
        (y, x), (v, u) = divmod(i, at.p.width), divmod(j, at.p.width)
        return v in rows[leader(y, at.p.height)] and u in columns[leader(x, at.p.width)]

    return at.pairs(seen)


def halo_2d(at):
    def reached(q, k):
        first = q - q % at.p.block
        return k in range(first - at.p.halo, first + at.p.block + at.p.halo)

    def seen(i, j):
        (y, x), (v, u) = divmod(i, at.p.width), divmod(j, at.p.width)
        return reached(y, v) and reached(x, u)

    return at.pairs(seen)


def shifted_window_2d(at):
    def part(q):
        return -1 if q < at.p.shift else (q - at.p.shift) // at.p.window

    return groups(at, lambda n: tuple(part(q) for q in divmod(n, at.p.width)))


def sliding_tile(at):
    grid = (at.p.frames, at.p.rows, at.p.columns)
    half = at.p.window // 2
    video = math.prod(grid) * at.p.volume

    def seen(i, j):
        if i >= video or j >= video:
            return True
        q, k = np.unravel_index(i // at.p.volume, grid), np.unravel_index(j // at.p.volume, grid)
        middle = [sorted((half, t, size - 1 - half))[1] for t, size in zip(q, grid, strict=True)]
        return all(abs(c - t) <= half for c, t in zip(middle, k, strict=True))

    return at.pairs(seen)


def radial(at):
    def seen(i, j):
        (f, p), (g, r) = divmod(i, at.p.frame), divmod(j, at.p.frame)
        octave = 1
        while 2 * octave <= abs(f - g):
            octave *= 2
        if abs(p - r) + 1 <= at.p.frame / octave:
            return True
        return p == r and abs(f - g) % math.ceil(octave / at.p.frame) == 0

    return at.pairs(seen)


def view_time(at):
    place = [(n // at.p.patches // at.p.times, n // at.p.patches % at.p.times) for n in range(at.kv_len)]
    return at.pairs(lambda i, j: any(a == b for a, b in zip(place[i], place[j], strict=True)))


def spatial_head(at):
    return at.pairs(lambda i, j: j < at.p.frame or abs(i // at.p.frame - j // at.p.frame) <= at.p.reach)


def temporal_head(at):
    return at.pairs(lambda i, j: j < at.p.frame or abs(i % at.p.frame - j % at.p.frame) <= at.p.width)


def spatial_temporal_heads(at):
    return np.stack([spatial_head(at) if kind else temporal_head(at) for kind in at.c.spatial])[None]


def tree_ancestors(at):
    prefix = np.ones((at.q_len, at.p.prefix), dtype=bool)
    return np.concatenate([prefix, at.c.ancestors], axis=1)


def tree_intervals(at):
    seen = np.ones((at.batch, 1, at.q_len, at.kv_len), dtype=bool)
    for b in range(at.batch):
        span = [range(e, end) for e, end in zip(at.c.enter[b], at.c.leave[b], strict=True)]
        for i in range(at.q_len):
            for n in range(at.q_len):
                seen[b, 0, i, at.p.prefix + n] = at.c.enter[b, i] in span[n]
    return seen


def draft_blocks(at):
    inside = np.kron(np.eye(-(-at.q_len // at.p.block)), np.tril(np.ones((at.p.block, at.p.block)))) > 0
    prefix = np.ones((at.q_len, at.p.prefix), dtype=bool)
    return np.concatenate([prefix, inside[: at.q_len, : at.q_len]], axis=1)


def block_diffusion(at):
    def seen(i, j):
        noised_i, noised_j = i < at.p.length, j < at.p.length
        p = (i if noised_i else i - at.p.length) // at.p.block
        r = (j if noised_j else j - at.p.length) // at.p.block
        if noised_i:
            return r == p if noised_j else r < p
        return not noised_j and r <= p

    return at.pairs(seen)


def context_sharding(at):
    B = at.p.block
    seen = np.zeros((1, at.heads, at.q_len, at.kv_len), dtype=bool)
    for h in range(at.heads):
        for i in range(at.q_len):
            for j in range(i + 1):
                seen[0, h, i, j] = i // B - j // B < at.p.local or (j // B + h) % at.p.stride == 0
    return seen


def local_and_strided_heads(at):
    local = band(at, at.p.window - 1, 0)
    strided = causal(at) & (at.d % at.p.stride == 0)
    return np.stack([local if h < at.heads // 2 else strided for h in range(at.heads)])[None]


def head_windows(at):
    return np.stack([band(at, w - 1, 0) for w in at.c.windows])[None]


def streaming_heads(at):
    window = band(at, at.p.window - 1, 0) | (causal(at) & (at.j < at.p.sinks))
    return np.stack([causal(at) if keep else window for keep in at.c.retrieval])[None]


def bigbird(at):
    listed = [set(row) for row in at.c.random_blocks]

    def seen(i, j):
        p, r = i // at.p.block, j // at.p.block
        return abs(p - r) <= 1 or 0 in (p, r) or r in listed[p]

    return at.pairs(seen)


def block_sparse(at):
    tiles = np.kron(at.c.blocks, np.ones((at.p.block, at.p.block))) > 0
    return tiles[None, :, : at.q_len, : at.kv_len]


def selected_blocks(at):
    kv_block = at.j // at.p.block
    chosen = (at.c.selected[..., None] == kv_block[:, None, :]).any(axis=-2)
    return causal(at) & (chosen | (at.i // at.p.block == kv_block))


def hash_buckets(at):
    return causal(at) & (at.c.q_buckets[:, :, :, None] == at.c.kv_buckets[:, :, None, :])


def vision_cross_attention(at):
    spans = [range(first, end) for first, end in at.c.spans]
    return at.pairs(lambda i, j: i in spans[j // at.p.tokens])


def image_and_text(at):
    q, kv = per_query(at.c.image_ids, at), per_key(at.c.image_ids, at)
    return causal(at) | ((q == kv) & (q != -1))


VISIBLE = {
    "full": lambda at: np.ones((at.q_len, at.kv_len), dtype=bool),
    "causal": causal,
    "causal_bottom_right": lambda at: np.tril(np.ones((at.q_len, at.kv_len), dtype=bool), at.kv_len - at.q_len),
    "prefix_lm": lambda at: causal(at) | (at.j < at.p.prefix),
    "prefix_lm_lengths": lambda at: causal(at) | (at.j < at.c.prefix_lengths[:, None, None, None]),
    "block_causal": lambda at: at.pairs(lambda i, j: j // at.p.block <= i // at.p.block),
    "sliding_window": lambda at: band(at, at.p.window - 1, 0),
    "sliding_window_distance": lambda at: band(at, at.p.distance, 0),
    "local_window": lambda at: band(at, at.p.left, at.p.right),
    "bidirectional_window": lambda at: band(at, at.p.radius, at.p.radius),
    "dilated_window": lambda at: at.pairs(
        lambda i, j: j in {i + n * at.p.dilation for n in range(-at.p.radius, at.p.radius + 1)}
    ),
    "strided": lambda at: causal(at) & (band(at, at.p.stride - 1, 0) | (at.d % at.p.stride == 0)),
    "fixed_summary": lambda at: (
        causal(at) & (groups(at, lambda n: n // at.p.block) | (at.j % at.p.block >= at.p.block - at.p.summary))
    ),
    "sink_window": lambda at: causal(at) & (band(at, at.p.window - 1, 0) | (at.j < at.p.sinks)),
    "chunked_local": lambda at: causal(at) & groups(at, lambda n: n // at.p.chunk),
    "block_diagonal": lambda at: groups(at, lambda n: n // at.p.block),
    "block_local": lambda at: at.pairs(lambda i, j: abs(i // at.p.block - j // at.p.block) <= at.p.reach),
    "documents": documents,
    "causal_documents": lambda at: documents(at) & causal(at),
    "document_starts": document_starts,
    "shared_prefix": shared_prefix,
    "padding": lambda at: np.stack([np.arange(at.kv_len) < n for n in at.c.lengths])[:, None, None, :],
    "left_padding": lambda at: causal(at) & (at.j >= at.c.starts[:, None, None, None]),
    "foreground_only": lambda at: per_query(at.c.foreground, at) & per_key(at.c.foreground, at),
    "alibi": causal,
    "forgetting": causal,
    "sandwich": causal,
    "kerple_log": causal,
    "scalable_softmax": causal,
    "adaptive_span": lambda at: causal(at) & (at.d < 32.0 + at.c.span[None, :, None, None]),
    "key_reweighting": lambda at: per_key(at.c.weights, at) > 0,
    "neighborhood_1d": neighborhood_1d,
    "neighborhood_2d": neighborhood_2d,
    "neighborhood_3d": neighborhood_3d,
    "dilated_neighborhood_1d": dilated_neighborhood_1d,
    "strided_neighborhood_2d": strided_neighborhood_2d,
    "halo_2d": halo_2d,
    "axial_2d": lambda at: groups(at, lambda n: n // at.p.width) | groups(at, lambda n: n % at.p.width),
    "shifted_window_2d": shifted_window_2d,
    "sliding_tile": sliding_tile,
    "radial": radial,
    "view_time": view_time,
    "spatial_head": spatial_head,
    "temporal_head": temporal_head,
    "spatial_temporal_heads": spatial_temporal_heads,
    "tree_ancestors": tree_ancestors,
    "tree_intervals": tree_intervals,
    "draft_blocks": draft_blocks,
    "block_diffusion": block_diffusion,
    "context_sharding": context_sharding,
    "local_and_strided_heads": local_and_strided_heads,
    "head_windows": head_windows,
    "streaming_heads": streaming_heads,
    "global_tokens": lambda at: (
        band(at, at.p.radius, at.p.radius) | per_query(at.c.is_global, at) | per_key(at.c.is_global, at)
    ),
    "bigbird": bigbird,
    "block_sparse": block_sparse,
    "selected_blocks": selected_blocks,
    "hash_buckets": hash_buckets,
    "vision_cross_attention": vision_cross_attention,
    "image_and_text": image_and_text,
    "packed_window_alibi": lambda at: documents(at) & band(at, at.p.window - 1, 0),
    "windowed_soft_cap": lambda at: band(at, at.p.window - 1, 0),
    "capped_alibi": causal,
}

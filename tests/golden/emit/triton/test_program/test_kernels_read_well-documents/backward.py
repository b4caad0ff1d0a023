"""What both backward passes need of each row."""
import triton
import triton.language as tl

TILE_Q = tl.constexpr(64)
VALUE_DIM = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def prepare(
    out_ptr,  # [B, Hq, Lq, Dv]
    grad_out_ptr,  # [B, Hq, Lq, Dv]
    largest_ptr,  # [B, Hq, Lq], largest score of each row, in base 2
    sums_ptr,  # [B, Hq, Lq], sum of 2 ** (score - largest)
    grad_lse_ptr,  # [B, Hq, Lq]
    lse2_ptr,  # [B, Hq, Lq], result: lse in base 2, +inf where a row has no visible key
    delta_ptr,  # [B, Hq, Lq], result: rowsum(out * grad_out) - grad_lse
    out_stride_b, out_stride_h, out_stride_n,
    do_stride_b, do_stride_h, do_stride_n,
    heads, q_len,
):
    """What both passes need of each row, once."""
    tiles = tl.cdiv(q_len, TILE_Q)
    b = tl.program_id(0) // tiles // heads
    h = tl.program_id(0) // tiles % heads
    q_row = tl.program_id(0) % tiles * TILE_Q + tl.arange(0, TILE_Q)
    value_dims = tl.arange(0, VALUE_TILE)
    inside = (q_row < q_len)[:, None] & (value_dims < VALUE_DIM)[None, :]
    row = q_row.to(tl.int64)[:, None]
    out_base = out_ptr + b.to(tl.int64) * out_stride_b + h.to(tl.int64) * out_stride_h
    do_base = grad_out_ptr + b.to(tl.int64) * do_stride_b + h.to(tl.int64) * do_stride_h
    out = tl.load(out_base + row * out_stride_n + value_dims[None, :], mask=inside, other=0.0).to(tl.float32)
    grad_out = tl.load(do_base + row * do_stride_n + value_dims[None, :], mask=inside, other=0.0).to(tl.float32)
    at = (b * heads + h).to(tl.int64) * q_len + q_row
    largest = tl.load(largest_ptr + at, mask=q_row < q_len, other=0.0)
    sums = tl.load(sums_ptr + at, mask=q_row < q_len, other=0.0)
    grad_lse = tl.load(grad_lse_ptr + at, mask=q_row < q_len, other=0.0)
    grad_lse = tl.where(sums == 0.0, 0.0, grad_lse)
    tl.store(delta_ptr + at, tl.sum(out * grad_out, 1) - grad_lse, mask=q_row < q_len)
    lse2 = tl.where(sums == 0.0, float("inf"), largest + tl.log2(sums))
    tl.store(lse2_ptr + at, lse2, mask=q_row < q_len)


"""documents: backward over q, Triton.

    attn 1
    attention documents:
      capture doc_ids: int[batch, kv_len]
      mask = doc_ids[b, q_idx] == doc_ids[b, kv_idx]

Schedule:
- tiles of 64 queries x 32 keys, 4 warps, 3 stages: fastest of those measured that keep their values in registers (H100,
  bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE_Q = tl.constexpr(64)
TILE_KV = tl.constexpr(32)
HEAD_TILE = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def backward_q(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lkv, D]
    v_ptr,  # [B, Hkv, Lkv, Dv]
    grad_out_ptr,  # [B, Hq, Lq, Dv]
    lse2_ptr,  # [B, Hq, Lq], see prepare
    delta_ptr,  # [B, Hq, Lq], see prepare
    grad_q_ptr,  # [B, Hq, Lq, D]
    doc_ids_ptr,
    doc_ids_stride_0,
    partial_count_ptr,
    partial_index_ptr,
    full_count_ptr,
    full_index_ptr,
    q_stride_b, q_stride_h, q_stride_n,
    k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n,
    do_stride_b, do_stride_h, do_stride_n,
    dq_stride_b, dq_stride_h, dq_stride_n,
    heads, group, q_len, kv_len,
    scale,
):
    """Gradients that a tile of queries owns: its rows of dQ, and captured tensors indexed by b, h and q_idx."""
    tiles = tl.cdiv(q_len, TILE_Q)
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles
    b = program // tiles // heads
    h = program // tiles % heads
    kv_head = h // group

    q_start = tile * TILE_Q
    q_row = q_start + tl.arange(0, TILE_Q)
    q_idx = tl.minimum(q_row, q_len - 1)[:, None]  # rows past the end repeat the last and are not stored
    dims = tl.arange(0, HEAD_TILE)
    value_dims = tl.arange(0, VALUE_TILE)
    q_base = q_ptr + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h + q_start.to(tl.int64) * q_stride_n
    do_base = grad_out_ptr + b.to(tl.int64) * do_stride_b + h.to(tl.int64) * do_stride_h
    do_base += q_start.to(tl.int64) * do_stride_n
    k_base = k_ptr + b.to(tl.int64) * k_stride_b + kv_head.to(tl.int64) * k_stride_h
    v_base = v_ptr + b.to(tl.int64) * v_stride_b + kv_head.to(tl.int64) * v_stride_h
    row_in_tile = tl.arange(0, TILE_Q)[:, None]
    q_tile = tl.load(q_base + row_in_tile * q_stride_n + dims[None, :], mask=(q_row < q_len)[:, None], other=0.0)
    do_tile = tl.load(
        do_base + row_in_tile * do_stride_n + value_dims[None, :],
        mask=(q_row < q_len)[:, None],
        other=0.0,
    )
    at = (b * heads + h).to(tl.int64) * q_len + q_row
    lse2 = tl.load(lse2_ptr + at, mask=q_row < q_len, other=float("inf"))[:, None]
    delta = tl.load(delta_ptr + at, mask=q_row < q_len, other=0.0)[:, None]
    grad_q = tl.zeros([TILE_Q, HEAD_TILE], tl.float32)
    scale_log2 = scale * LOG2E
    query_doc_ids = tl.load(doc_ids_ptr + b * doc_ids_stride_0 + q_idx)  # <string>:7
    table_row = b * tiles + tile
    partial_count = tl.load(partial_count_ptr + table_row)
    full_count = tl.load(full_count_ptr + table_row)
    partial_tiles = partial_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)
    full_tiles = full_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)

    # tiles that are visible as a whole
    tile_index = tl.load(full_tiles, mask=0 < full_count, other=0)
    for step in tl.range(0, full_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(full_tiles + step + 1, mask=step + 1 < full_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        k_tile = tl.load(k_base + kv_row[:, None] * k_stride_n + dims[None, :])
        v_tile = tl.load(v_base + kv_row[:, None] * v_stride_n + value_dims[None, :])
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        weight = tl.exp2(dot * scale_log2 - lse2)
        grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")
        grad_score = weight * (grad_weight - delta)
        grad_q = tl.dot(grad_score.to(k_tile.dtype), k_tile, grad_q, input_precision="ieee")

    # tiles that the mask cuts, or that reach past the end
    tile_index = tl.load(partial_tiles, mask=0 < partial_count, other=0)
    for step in tl.range(0, partial_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(partial_tiles + step + 1, mask=step + 1 < partial_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = tl.minimum(kv_row, kv_len - 1)[None, :]
        in_range = (kv_row < kv_len)[None, :]
        k_tile = tl.load(
            k_base + kv_row[:, None] * k_stride_n + dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        v_tile = tl.load(
            v_base + kv_row[:, None] * v_stride_n + value_dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        pair_is_equal = query_doc_ids == tl.load(doc_ids_ptr + b * doc_ids_stride_0 + kv_idx)  # <string>:7
        weight = tl.exp2(dot * scale_log2 - lse2)
        weight = tl.where(in_range & pair_is_equal, weight, 0.0)
        grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")
        grad_score = weight * (grad_weight - delta)
        grad_q = tl.dot(grad_score.to(k_tile.dtype), k_tile, grad_q, input_precision="ieee")

    dq_base = grad_q_ptr + b.to(tl.int64) * dq_stride_b + h.to(tl.int64) * dq_stride_h
    dq_base += q_start.to(tl.int64) * dq_stride_n
    tl.store(
        dq_base + row_in_tile * dq_stride_n + dims[None, :],
        (grad_q * scale).to(grad_q_ptr.dtype.element_ty),
        mask=(q_row < q_len)[:, None],
    )


"""documents: backward over kv, Triton.

    attn 1
    attention documents:
      capture doc_ids: int[batch, kv_len]
      mask = doc_ids[b, q_idx] == doc_ids[b, kv_idx]

Schedule:
- tiles of 64 queries x 64 keys, 4 warps, 3 stages: fastest of those measured that keep their values in registers (H100,
  bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE_Q = tl.constexpr(64)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def backward_kv(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lkv, D]
    v_ptr,  # [B, Hkv, Lkv, Dv]
    grad_out_ptr,  # [B, Hq, Lq, Dv]
    lse2_ptr,  # [B, Hq, Lq], see prepare
    delta_ptr,  # [B, Hq, Lq], see prepare
    grad_k_ptr,  # [B, Hkv, Lkv, D]
    grad_v_ptr,  # [B, Hkv, Lkv, Dv]
    doc_ids_ptr,
    doc_ids_stride_0,
    partial_count_ptr,
    partial_index_ptr,
    full_count_ptr,
    full_index_ptr,
    q_stride_b, q_stride_h, q_stride_n,
    k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n,
    do_stride_b, do_stride_h, do_stride_n,
    dk_stride_b, dk_stride_h, dk_stride_n,
    dv_stride_b, dv_stride_h, dv_stride_n,
    heads, group, q_len, kv_len,
    scale,
):
    """Gradients that a tile of keys owns: its rows of dK and dV, and captured tensors indexed by b, h and kv_idx.

    Scores are held transposed, [TILE_KV, TILE_Q], so that they feed the products for dK and dV as they are.
    """
    tiles = tl.cdiv(kv_len, TILE_KV)
    program = tl.program_id(0)
    tile = program % tiles
    kv_heads = heads // group
    b = program // tiles // kv_heads
    kv_head = program // tiles % kv_heads

    kv_start = tile * TILE_KV
    kv_row = kv_start + tl.arange(0, TILE_KV)
    kv_idx = tl.minimum(kv_row, kv_len - 1)[:, None]  # keys past the end repeat the last and are not stored
    dims = tl.arange(0, HEAD_TILE)
    value_dims = tl.arange(0, VALUE_TILE)
    row_in_tile = tl.arange(0, TILE_KV)[:, None]
    k_base = k_ptr + b.to(tl.int64) * k_stride_b + kv_head.to(tl.int64) * k_stride_h
    k_base += kv_start.to(tl.int64) * k_stride_n
    v_base = v_ptr + b.to(tl.int64) * v_stride_b + kv_head.to(tl.int64) * v_stride_h
    v_base += kv_start.to(tl.int64) * v_stride_n
    k_tile = tl.load(k_base + row_in_tile * k_stride_n + dims[None, :], mask=(kv_row < kv_len)[:, None], other=0.0)
    v_tile = tl.load(
        v_base + row_in_tile * v_stride_n + value_dims[None, :],
        mask=(kv_row < kv_len)[:, None],
        other=0.0,
    )
    grad_k = tl.zeros([TILE_KV, HEAD_TILE], tl.float32)
    grad_v = tl.zeros([TILE_KV, VALUE_TILE], tl.float32)
    scale_log2 = scale * LOG2E
    for member in range(group):  # the query heads that share this key head
        h = kv_head * group + member
        q_base = q_ptr + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h
        do_base = grad_out_ptr + b.to(tl.int64) * do_stride_b + h.to(tl.int64) * do_stride_h
        head_rows = (b * heads + h).to(tl.int64) * q_len
        key_doc_ids = tl.load(doc_ids_ptr + b * doc_ids_stride_0 + kv_idx)  # <string>:7
        table_row = b * tiles + tile
        partial_count = tl.load(partial_count_ptr + table_row)
        full_count = tl.load(full_count_ptr + table_row)
        partial_tiles = partial_index_ptr + table_row.to(tl.int64) * tl.cdiv(q_len, TILE_Q)
        full_tiles = full_index_ptr + table_row.to(tl.int64) * tl.cdiv(q_len, TILE_Q)

        # tiles that are visible as a whole
        tile_index = tl.load(full_tiles, mask=0 < full_count, other=0)
        for step in tl.range(0, full_count):
            q_start = tile_index * TILE_Q
            tile_index = tl.load(full_tiles + step + 1, mask=step + 1 < full_count, other=0)
            q_row = q_start + tl.arange(0, TILE_Q)
            q_idx = q_row[None, :]
            q_tile = tl.load(q_base + q_row[:, None] * q_stride_n + dims[None, :])
            do_tile = tl.load(do_base + q_row[:, None] * do_stride_n + value_dims[None, :])
            dot = tl.dot(k_tile, q_tile.T, input_precision="ieee")  # [TILE_KV, TILE_Q]
            lse2 = tl.load(lse2_ptr + head_rows + q_row)[None, :]
            weight = tl.exp2(dot * scale_log2 - lse2)
            grad_v = tl.dot(weight.to(do_tile.dtype), do_tile, grad_v, input_precision="ieee")
            grad_weight = tl.dot(v_tile, do_tile.T, input_precision="ieee")
            delta = tl.load(delta_ptr + head_rows + q_row)[None, :]
            grad_score = weight * (grad_weight - delta)
            grad_k = tl.dot(grad_score.to(q_tile.dtype), q_tile, grad_k, input_precision="ieee")

        # tiles that the mask cuts, or that reach past the end
        tile_index = tl.load(partial_tiles, mask=0 < partial_count, other=0)
        for step in tl.range(0, partial_count):
            q_start = tile_index * TILE_Q
            tile_index = tl.load(partial_tiles + step + 1, mask=step + 1 < partial_count, other=0)
            q_row = q_start + tl.arange(0, TILE_Q)
            q_idx = tl.minimum(q_row, q_len - 1)[None, :]
            in_range = (q_row < q_len)[None, :]
            q_tile = tl.load(
                q_base + q_row[:, None] * q_stride_n + dims[None, :],
                mask=(q_row < q_len)[:, None],
                other=0.0,
            )
            do_tile = tl.load(
                do_base + q_row[:, None] * do_stride_n + value_dims[None, :],
                mask=(q_row < q_len)[:, None],
                other=0.0,
            )
            dot = tl.dot(k_tile, q_tile.T, input_precision="ieee")  # [TILE_KV, TILE_Q]
            lse2 = tl.load(lse2_ptr + head_rows + q_row, mask=q_row < q_len, other=float("inf"))[None, :]
            pair_is_equal = tl.load(doc_ids_ptr + b * doc_ids_stride_0 + q_idx) == key_doc_ids  # <string>:7
            weight = tl.exp2(dot * scale_log2 - lse2)
            weight = tl.where(in_range & pair_is_equal, weight, 0.0)
            grad_v = tl.dot(weight.to(do_tile.dtype), do_tile, grad_v, input_precision="ieee")
            grad_weight = tl.dot(v_tile, do_tile.T, input_precision="ieee")
            delta = tl.load(delta_ptr + head_rows + q_row, mask=q_row < q_len, other=0.0)[None, :]
            grad_score = weight * (grad_weight - delta)
            grad_k = tl.dot(grad_score.to(q_tile.dtype), q_tile, grad_k, input_precision="ieee")

    dk_base = grad_k_ptr + b.to(tl.int64) * dk_stride_b + kv_head.to(tl.int64) * dk_stride_h
    dk_base += kv_start.to(tl.int64) * dk_stride_n
    tl.store(
        dk_base + row_in_tile * dk_stride_n + dims[None, :],
        (grad_k * scale).to(grad_k_ptr.dtype.element_ty),
        mask=(kv_row < kv_len)[:, None],
    )
    dv_base = grad_v_ptr + b.to(tl.int64) * dv_stride_b + kv_head.to(tl.int64) * dv_stride_h
    dv_base += kv_start.to(tl.int64) * dv_stride_n
    tl.store(
        dv_base + row_in_tile * dv_stride_n + value_dims[None, :],
        grad_v.to(grad_v_ptr.dtype.element_ty),
        mask=(kv_row < kv_len)[:, None],
    )


"""The tiles that a mask visits."""
import triton
import triton.language as tl

TILE_Q = tl.constexpr(64)
TILE_KV = tl.constexpr(32)
CHUNK = tl.constexpr(128)


@triton.jit
def list_tiles(
    partial_count_ptr,  # [rows], result: how many tiles the mask must cut, or reach past the end
    partial_index_ptr,  # [rows, walked tiles], result: which
    full_count_ptr,  # [rows], result: how many tiles are visible as a whole
    full_index_ptr,  # [rows, walked tiles], result: which
    stat0_min_ptr,
    stat0_max_ptr,
    stat0_stride_b,
    stat0_stride_h,
    stat1_min_ptr,
    stat1_max_ptr,
    stat1_stride_b,
    stat1_stride_h,
    ascending_ptr,
    table_heads, q_len, kv_len,
):
    """List, for one tile of queries, the tiles of keys that hold a visible pair; in ascending order."""
    tiles = tl.cdiv(q_len, TILE_Q)
    walked_tiles = tl.cdiv(kv_len, TILE_KV)
    row = tl.program_id(0)
    tile = row % tiles
    h = row // tiles % table_heads
    b = row // tiles // table_heads
    q_tile = tile
    partial_tiles = partial_index_ptr + row.to(tl.int64) * walked_tiles
    full_tiles = full_index_ptr + row.to(tl.int64) * walked_tiles
    partial_count = 0
    full_count = 0
    first = 0
    last = walked_tiles

    # along what ascends the tiles to visit lie between two bounds; each round finds them in a part 1 / CHUNK as wide
    width = tl.where(tl.load(ascending_ptr + row // tiles), walked_tiles, 0)
    last = walked_tiles - width
    while width > 0:
        part = tl.cdiv(width, CHUNK)
        walked = first + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & ((stat0_max >= stat1_min) == 0)).to(tl.int32), 0)
        first += part * before
        walked = last + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & (stat1_max >= stat0_min)).to(tl.int32), 0)
        last += part * before
        width = part - 1

    for start in range(first, last, CHUNK):
        walked = start + tl.arange(0, CHUNK)
        exists = walked < last
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        complete = kv_min + TILE_KV <= kv_len
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        visit = exists & ((stat0_max >= stat1_min) & (stat1_max >= stat0_min))

        # Triton 3.9's interpreter takes comparisons as masks, no splats
        full = (visit & complete & ((stat1_min >= stat0_max) & (stat0_min >= stat1_max))) != 0
        partial = (visit & (full == 0)) != 0
        partial_at = partial_count + tl.cumsum(partial.to(tl.int32), 0) - 1
        full_at = full_count + tl.cumsum(full.to(tl.int32), 0) - 1
        tl.store(partial_tiles + partial_at, walked, mask=partial)
        tl.store(full_tiles + full_at, walked, mask=full)
        partial_count += tl.sum(partial.to(tl.int32), 0)
        full_count += tl.sum(full.to(tl.int32), 0)

    tl.store(partial_count_ptr + row, partial_count)
    tl.store(full_count_ptr + row, full_count)


"""The tiles that a mask visits."""
import triton
import triton.language as tl

TILE_Q = tl.constexpr(64)
TILE_KV = tl.constexpr(64)
CHUNK = tl.constexpr(128)


@triton.jit
def list_tiles(
    partial_count_ptr,  # [rows], result: how many tiles the mask must cut, or reach past the end
    partial_index_ptr,  # [rows, walked tiles], result: which
    full_count_ptr,  # [rows], result: how many tiles are visible as a whole
    full_index_ptr,  # [rows, walked tiles], result: which
    stat0_min_ptr,
    stat0_max_ptr,
    stat0_stride_b,
    stat0_stride_h,
    stat1_min_ptr,
    stat1_max_ptr,
    stat1_stride_b,
    stat1_stride_h,
    ascending_ptr,
    table_heads, q_len, kv_len,
):
    """List, for one tile of keys, the tiles of queries that hold a visible pair; in ascending order."""
    tiles = tl.cdiv(kv_len, TILE_KV)
    walked_tiles = tl.cdiv(q_len, TILE_Q)
    row = tl.program_id(0)
    tile = row % tiles
    h = row // tiles % table_heads
    b = row // tiles // table_heads
    kv_tile = tile
    partial_tiles = partial_index_ptr + row.to(tl.int64) * walked_tiles
    full_tiles = full_index_ptr + row.to(tl.int64) * walked_tiles
    partial_count = 0
    full_count = 0
    first = 0
    last = walked_tiles

    # along what ascends the tiles to visit lie between two bounds; each round finds them in a part 1 / CHUNK as wide
    width = tl.where(tl.load(ascending_ptr + row // tiles), walked_tiles, 0)
    last = walked_tiles - width
    while width > 0:
        part = tl.cdiv(width, CHUNK)
        walked = first + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        q_tile = walked
        q_min = walked * TILE_Q
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & ((stat1_max >= stat0_min) == 0)).to(tl.int32), 0)
        first += part * before
        walked = last + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        q_tile = walked
        q_min = walked * TILE_Q
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & (stat0_max >= stat1_min)).to(tl.int32), 0)
        last += part * before
        width = part - 1

    for start in range(first, last, CHUNK):
        walked = start + tl.arange(0, CHUNK)
        exists = walked < last
        walked = tl.minimum(walked, walked_tiles - 1)
        q_tile = walked
        q_min = walked * TILE_Q
        complete = q_min + TILE_Q <= q_len
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        visit = exists & ((stat0_max >= stat1_min) & (stat1_max >= stat0_min))

        # Triton 3.9's interpreter takes comparisons as masks, no splats
        full = (visit & complete & ((stat1_min >= stat0_max) & (stat0_min >= stat1_max))) != 0
        partial = (visit & (full == 0)) != 0
        partial_at = partial_count + tl.cumsum(partial.to(tl.int32), 0) - 1
        full_at = full_count + tl.cumsum(full.to(tl.int32), 0) - 1
        tl.store(partial_tiles + partial_at, walked, mask=partial)
        tl.store(full_tiles + full_at, walked, mask=full)
        partial_count += tl.sum(partial.to(tl.int32), 0)
        full_count += tl.sum(full.to(tl.int32), 0)

    tl.store(partial_count_ptr + row, partial_count)
    tl.store(full_count_ptr + row, full_count)


"""What torch computes around the kernels of a variant."""

import torch

from attncc.runtime.steps import add_at, hold

FLOAT = torch.float32


def statistics(captures, parameters, batch, heads, q_len, kv_len, device):
    """What tiles are judged by, at every position: tensors that broadcast to [B, Hq, Lq, 1] or [B, Hq, 1, Lkv]."""
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    return [
        doc_ids[hold(b, doc_ids, 0), hold(kv_idx, doc_ids, 1)],
        doc_ids[hold(b, doc_ids, 0), hold(q_idx, doc_ids, 1)],
    ]


def collect(sums, captures, parameters, batch, heads, q_len, kv_len, device):
    """Gradients of the captures, in float32, from the sums that kernels made.

    Sums are [B, Hq, Lq, 1] over keys, [B, Hq, 1, Lkv] over queries, or [B, Hq, Lq + Lkv - 1, 1] along diagonals.
    """
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    distance = (torch.arange(q_len + kv_len - 1, device=device) - (kv_len - 1))[:, None]
    no_0 = None
    return [no_0,]


def add_pairs(totals, pairs, first, captures, parameters, batch, heads, q_len, kv_len, device):
    """Add the shares [B, Hq, rows, Lkv] of the queries from `first` to the gradients of the captures."""
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    q_idx = torch.arange(first, min(first + pairs[0].shape[2], q_len), device=device)[:, None]
    no_0, = totals

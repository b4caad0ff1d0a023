"""documents: forward, Triton.

    attn 1
    attention documents:
      capture ids: int[q_len]
      mask = q_idx >= kv_idx and ids[q_idx] == ids[kv_idx]

Schedule:
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TILE_Q = tl.constexpr(128)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(128)
VALUE_TILE = tl.constexpr(128)


@triton.jit
def forward(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lkv, D]
    v_ptr,  # [B, Hkv, Lkv, Dv]
    out_ptr,  # [B, Hq, Lq, Dv]
    lse_ptr,  # [B, Hq, Lq], natural logarithm
    largest_ptr,  # [B, Hq, Lq], largest score of each row, in base 2
    sums_ptr,  # [B, Hq, Lq], sum of 2 ** (score - largest)
    ids_ptr,
    partial_count_ptr,
    partial_index_ptr,
    full_count_ptr,
    full_index_ptr,
    q_stride_b, q_stride_h, q_stride_n,
    k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n,
    out_stride_b, out_stride_h, out_stride_n,
    heads, group, q_len, kv_len,
    scale,
):
    """Attend from TILE_Q queries of one head to every tile of keys that they can see."""
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
    k_base = k_ptr + b.to(tl.int64) * k_stride_b + kv_head.to(tl.int64) * k_stride_h
    v_base = v_ptr + b.to(tl.int64) * v_stride_b + kv_head.to(tl.int64) * v_stride_h
    row_in_tile = tl.arange(0, TILE_Q)[:, None]
    q_tile = tl.load(q_base + row_in_tile * q_stride_n + dims[None, :], mask=(q_row < q_len)[:, None], other=0.0)
    row_max = tl.full([TILE_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_Q], tl.float32)
    acc = tl.zeros([TILE_Q, VALUE_TILE], tl.float32)
    scale_log2 = scale * LOG2E
    query_ids = tl.load(ids_ptr + q_idx)  # <string>:3
    table_row = tile
    partial_count = tl.load(partial_count_ptr + table_row)
    full_count = tl.load(full_count_ptr + table_row)
    partial_tiles = partial_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)
    full_tiles = full_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)

    # tiles that are visible as a whole
    tile_index = tl.load(full_tiles, mask=0 < full_count, other=0)
    next_index = tl.load(full_tiles + 1, mask=1 < full_count, other=0)
    before_index = tile_index
    next_start = tile_index * TILE_KV
    next_row = next_start + tl.arange(0, TILE_KV)
    k_tile = tl.load(
        k_base + next_row[:, None] * k_stride_n + dims[None, :],
        mask=(next_row < kv_len)[:, None],
        other=0.0,
    )
    next_dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")
    weight_bits = tl.zeros([TILE_Q, TILE_KV], tl.int16)  # of the step before; as ints, which stay in registers
    for step in tl.range(0, full_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(full_tiles + step + 1, mask=step + 1 < full_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        before_start = before_index * TILE_KV
        before_index = tl.load(full_tiles + step, mask=step < full_count, other=0)
        before_row = before_start + tl.arange(0, TILE_KV)
        v_tile = tl.load(v_base + before_row[:, None] * v_stride_n + value_dims[None, :])
        acc = tl.dot(weight_bits.to(v_tile.dtype, bitcast=True), v_tile, acc, input_precision="ieee")
        dot = next_dot + 0.0  # a copy: its registers take the product of the next tile
        next_start = next_index * TILE_KV
        next_index = tl.load(full_tiles + step + 2, mask=step + 2 < full_count, other=0)
        next_row = next_start + tl.arange(0, TILE_KV)
        k_tile = tl.load(k_base + next_row[:, None] * k_stride_n + dims[None, :])
        next_dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # runs on beside what follows
        new_max = tl.maximum(row_max, tl.max(dot, 1) * scale_log2)
        shift = new_max
        weight = tl.exp2(dot * scale_log2 - shift[:, None])
        decay = tl.exp2(row_max - shift)
        row_sum = row_sum * decay + tl.sum(weight, 1)
        acc = acc * decay[:, None]
        weight_bits = weight.to(v_tile.dtype).to(tl.int16, bitcast=True)
        row_max = new_max

    before_start = before_index * TILE_KV
    before_start = tl.where(full_count > 0, before_start, kv_len)
    before_row = before_start + tl.arange(0, TILE_KV)
    v_tile = tl.load(
        v_base + before_row[:, None] * v_stride_n + value_dims[None, :],
        mask=(before_row < kv_len)[:, None],
        other=0.0,
    )
    acc = tl.dot(weight_bits.to(v_tile.dtype, bitcast=True), v_tile, acc, input_precision="ieee")

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
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        pair_holds = (q_idx >= kv_idx) & (query_ids == tl.load(ids_ptr + kv_idx))  # <string>:3
        dot = tl.where(in_range & pair_holds, dot, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(dot, 1) * scale_log2)
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)  # a row that has seen no key yet
        weight = tl.exp2(dot * scale_log2 - shift[:, None])
        decay = tl.exp2(row_max - shift)
        row_sum = row_sum * decay + tl.sum(weight, 1)
        acc = acc * decay[:, None]
        v_tile = tl.load(
            v_base + kv_row[:, None] * v_stride_n + value_dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        acc = tl.dot(weight.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        row_max = new_max

    empty = row_sum == 0.0  # no visible key: out is 0 and lse -inf
    out_tile = acc * (1.0 / tl.where(empty, 1.0, row_sum))[:, None]
    lse = tl.where(empty, float("-inf"), (row_max + tl.log2(row_sum)) * LN2)
    at = (b * heads + h).to(tl.int64) * q_len + q_row
    tl.store(lse_ptr + at, lse, mask=q_row < q_len)
    tl.store(largest_ptr + at, row_max, mask=q_row < q_len)
    tl.store(sums_ptr + at, row_sum, mask=q_row < q_len)
    out_base = out_ptr + b.to(tl.int64) * out_stride_b + h.to(tl.int64) * out_stride_h
    out_base += q_start.to(tl.int64) * out_stride_n
    tl.store(
        out_base + row_in_tile * out_stride_n + value_dims[None, :],
        out_tile.to(out_ptr.dtype.element_ty),
        mask=(q_row < q_len)[:, None],
    )

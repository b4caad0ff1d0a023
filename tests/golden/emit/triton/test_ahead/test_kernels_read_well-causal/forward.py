"""causal: forward, Triton.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

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
    q_min = q_start
    q_max = tl.minimum(q_start + TILE_Q, q_len) - 1
    first_0 = 0 // TILE_KV
    last_0 = tl.maximum(tl.cdiv(tl.minimum(q_max + 1, kv_len), TILE_KV), first_0)
    full_first_0 = tl.minimum(tl.maximum(tl.cdiv(0, TILE_KV), first_0), last_0)
    full_last_0 = tl.minimum(tl.maximum(tl.minimum(q_min + 1, kv_len) // TILE_KV, full_first_0), last_0)
    partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
    full_count = (full_last_0 - full_first_0)

    # tiles that are visible as a whole
    next_index = full_first_0
    next_start = next_index * TILE_KV
    next_row = next_start + tl.arange(0, TILE_KV)
    k_tile = tl.load(
        k_base + next_row[:, None] * k_stride_n + dims[None, :],
        mask=(next_row < kv_len)[:, None],
        other=0.0,
    )
    next_dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")
    weight_bits = tl.zeros([TILE_Q, TILE_KV], tl.int16)  # of the step before; as ints, which stay in registers
    for step in tl.range(0, full_count):
        tile_index = full_first_0 + step
        kv_start = tile_index * TILE_KV
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        before_step = tl.maximum(step - 1, 0)
        before_index = full_first_0 + before_step
        before_start = before_index * TILE_KV
        before_row = before_start + tl.arange(0, TILE_KV)
        v_tile = tl.load(v_base + before_row[:, None] * v_stride_n + value_dims[None, :])
        acc = tl.dot(weight_bits.to(v_tile.dtype, bitcast=True), v_tile, acc, input_precision="ieee")
        dot = next_dot + 0.0  # a copy: its registers take the product of the next tile
        next_step = tl.minimum(step + 1, full_count - 1)
        next_index = full_first_0 + next_step
        next_start = next_index * TILE_KV
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

    last_step = tl.maximum(full_count - 1, 0)
    before_index = full_first_0 + last_step
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
    for step in tl.range(0, partial_count):
        tile_index = first_0 + step
        tile_index = tl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
        kv_start = tile_index * TILE_KV
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = tl.minimum(kv_row, kv_len - 1)[None, :]
        in_range = (kv_row < kv_len)[None, :]
        k_tile = tl.load(
            k_base + kv_row[:, None] * k_stride_n + dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        pair_is_at_least = q_idx >= kv_idx  # <string>:2
        dot = tl.where(in_range & pair_is_at_least, dot, float("-inf"))
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

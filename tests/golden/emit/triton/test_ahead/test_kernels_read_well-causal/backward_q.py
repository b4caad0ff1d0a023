"""causal: backward over q, Triton.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

Schedule:
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE_Q = tl.constexpr(128)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(128)
VALUE_TILE = tl.constexpr(128)


@triton.jit
def backward_q(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lkv, D]
    v_ptr,  # [B, Hkv, Lkv, Dv]
    grad_out_ptr,  # [B, Hq, Lq, Dv]
    lse2_ptr,  # [B, Hq, Lq], see prepare
    delta_ptr,  # [B, Hq, Lq], see prepare
    grad_q_ptr,  # [B, Hq, Lq, D]
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
    q_tile = tl.where((q_row < q_len)[:, None], q_tile, 0.0)  # what is computed stays in registers
    grad_q = tl.zeros([TILE_Q, HEAD_TILE], tl.float32)
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
    v_tile = tl.load(
        v_base + next_row[:, None] * v_stride_n + value_dims[None, :],
        mask=(next_row < kv_len)[:, None],
        other=0.0,
    )
    grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")
    for step in tl.range(0, full_count):
        tile_index = full_first_0 + step
        kv_start = tile_index * TILE_KV
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        k_tile = tl.load(k_base + kv_row[:, None] * k_stride_n + dims[None, :])
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        grad_score = grad_weight - delta
        next_step = tl.minimum(step + 1, full_count - 1)
        next_index = full_first_0 + next_step
        next_start = next_index * TILE_KV
        next_row = next_start + tl.arange(0, TILE_KV)
        v_tile = tl.load(v_base + next_row[:, None] * v_stride_n + value_dims[None, :])
        grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")  # runs on beside what follows
        weight = tl.exp2(dot * scale_log2 - lse2)
        grad_score = weight * grad_score
        grad_q = tl.dot(grad_score.to(k_tile.dtype), k_tile, grad_q, input_precision="ieee")

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
        v_tile = tl.load(
            v_base + kv_row[:, None] * v_stride_n + value_dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        pair_is_at_least = q_idx >= kv_idx  # <string>:2
        weight = tl.exp2(dot * scale_log2 - lse2)
        weight = tl.where(in_range & pair_is_at_least, weight, 0.0)
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

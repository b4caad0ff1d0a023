"""documents: backward over q, Triton.

    attn 1
    attention documents:
      capture ids: int[q_len]
      mask = q_idx >= kv_idx and ids[q_idx] == ids[kv_idx]

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
    ids_ptr,
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
    q_tile = tl.where((q_row < q_len)[:, None], q_tile, 0.0)  # what is computed stays in registers
    grad_q = tl.zeros([TILE_Q, HEAD_TILE], tl.float32)
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
    next_start = tile_index * TILE_KV
    next_row = next_start + tl.arange(0, TILE_KV)
    v_tile = tl.load(
        v_base + next_row[:, None] * v_stride_n + value_dims[None, :],
        mask=(next_row < kv_len)[:, None],
        other=0.0,
    )
    grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")
    for step in tl.range(0, full_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(full_tiles + step + 1, mask=step + 1 < full_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        k_tile = tl.load(k_base + kv_row[:, None] * k_stride_n + dims[None, :])
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        grad_score = grad_weight - delta
        next_start = next_index * TILE_KV
        next_index = tl.load(full_tiles + step + 2, mask=step + 2 < full_count, other=0)
        next_row = next_start + tl.arange(0, TILE_KV)
        v_tile = tl.load(v_base + next_row[:, None] * v_stride_n + value_dims[None, :])
        grad_weight = tl.dot(do_tile, v_tile.T, input_precision="ieee")  # runs on beside what follows
        weight = tl.exp2(dot * scale_log2 - lse2)
        grad_score = weight * grad_score
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
        pair_holds = (q_idx >= kv_idx) & (query_ids == tl.load(ids_ptr + kv_idx))  # <string>:3
        weight = tl.exp2(dot * scale_log2 - lse2)
        weight = tl.where(in_range & pair_holds, weight, 0.0)
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

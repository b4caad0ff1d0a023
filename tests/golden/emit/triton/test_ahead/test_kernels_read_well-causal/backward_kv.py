"""causal: backward over kv, Triton.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

Schedule:
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE_Q = tl.constexpr(32)
TILE_KV = tl.constexpr(128)
HEAD_TILE = tl.constexpr(128)
VALUE_TILE = tl.constexpr(128)


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
    k_tile = tl.where((kv_row < kv_len)[:, None], k_tile, 0.0)  # what is computed stays in registers
    grad_k = tl.zeros([TILE_KV, HEAD_TILE], tl.float32)
    grad_v = tl.zeros([TILE_KV, VALUE_TILE], tl.float32)
    scale_log2 = scale * LOG2E
    for member in range(1):  # the query heads that share this key head
        h = kv_head * group + member
        q_base = q_ptr + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h
        do_base = grad_out_ptr + b.to(tl.int64) * do_stride_b + h.to(tl.int64) * do_stride_h
        head_rows = (b * heads + h).to(tl.int64) * q_len
        kv_min = kv_start
        kv_max = tl.minimum(kv_start + TILE_KV, kv_len) - 1
        first_0 = kv_min // TILE_Q
        last_0 = tl.maximum(tl.cdiv(q_len, TILE_Q), first_0)
        full_first_0 = tl.minimum(tl.maximum(tl.cdiv(kv_max, TILE_Q), first_0), last_0)
        full_last_0 = tl.minimum(tl.maximum(q_len // TILE_Q, full_first_0), last_0)
        partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
        full_count = (full_last_0 - full_first_0)

        # tiles that are visible as a whole
        next_index = full_first_0
        next_start = next_index * TILE_Q
        next_row = next_start + tl.arange(0, TILE_Q)
        next_do_tile = tl.load(
            do_base + next_row[:, None] * do_stride_n + value_dims[None, :],
            mask=(next_row < q_len)[:, None],
            other=0.0,
        )
        grad_weight = tl.dot(v_tile, next_do_tile.T, input_precision="ieee")
        for step in tl.range(0, full_count):
            tile_index = full_first_0 + step
            q_start = tile_index * TILE_Q
            q_row = q_start + tl.arange(0, TILE_Q)
            q_idx = q_row[None, :]
            q_tile = tl.load(q_base + q_row[:, None] * q_stride_n + dims[None, :])
            do_tile = tl.load(do_base + q_row[:, None] * do_stride_n + value_dims[None, :])
            delta = tl.load(delta_ptr + head_rows + q_row)[None, :]
            dot = tl.dot(k_tile, q_tile.T, input_precision="ieee")  # [TILE_KV, TILE_Q]
            lse2 = tl.load(lse2_ptr + head_rows + q_row)[None, :]
            grad_score = grad_weight - delta
            next_step = tl.minimum(step + 1, full_count - 1)
            next_index = full_first_0 + next_step
            next_start = next_index * TILE_Q
            next_row = next_start + tl.arange(0, TILE_Q)
            next_do_tile = tl.load(do_base + next_row[:, None] * do_stride_n + value_dims[None, :])
            grad_weight = tl.dot(v_tile, next_do_tile.T, input_precision="ieee")  # runs on beside what follows
            weight = tl.exp2(dot * scale_log2 - lse2)
            grad_v = tl.dot(weight.to(do_tile.dtype), do_tile, grad_v, input_precision="ieee")
            grad_score = weight * grad_score
            grad_k = tl.dot(grad_score.to(q_tile.dtype), q_tile, grad_k, input_precision="ieee")

        # tiles that the mask cuts, or that reach past the end
        for step in tl.range(0, partial_count):
            tile_index = first_0 + step
            tile_index = tl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
            q_start = tile_index * TILE_Q
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
            pair_is_at_least = q_idx >= kv_idx  # <string>:2
            weight = tl.exp2(dot * scale_log2 - lse2)
            weight = tl.where(in_range & pair_is_at_least, weight, 0.0)
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

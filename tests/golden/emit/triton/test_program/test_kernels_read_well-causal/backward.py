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


"""causal: backward over q, Triton.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

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
    q_min = q_start
    q_max = tl.minimum(q_start + TILE_Q, q_len) - 1
    first_0 = 0 // TILE_KV
    last_0 = tl.maximum(tl.cdiv(tl.minimum(q_max + 1, kv_len), TILE_KV), first_0)
    full_first_0 = tl.minimum(tl.maximum(tl.cdiv(0, TILE_KV), first_0), last_0)
    full_last_0 = tl.minimum(tl.maximum(tl.minimum(q_min + 1, kv_len) // TILE_KV, full_first_0), last_0)
    partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
    full_count = (full_last_0 - full_first_0)

    # tiles that are visible as a whole
    for step in tl.range(0, full_count):
        tile_index = full_first_0 + step
        kv_start = tile_index * TILE_KV
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
        pair_is_at_least = q_idx >= kv_idx  # <string>:6
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


"""causal: backward over kv, Triton.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

Schedule:
- tiles of 32 queries x 64 keys, 4 warps, 3 stages: fastest of those measured that keep their values in registers (H100,
  bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE_Q = tl.constexpr(32)
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
        kv_min = kv_start
        kv_max = tl.minimum(kv_start + TILE_KV, kv_len) - 1
        first_0 = kv_min // TILE_Q
        last_0 = tl.maximum(tl.cdiv(q_len, TILE_Q), first_0)
        full_first_0 = tl.minimum(tl.maximum(tl.cdiv(kv_max, TILE_Q), first_0), last_0)
        full_last_0 = tl.minimum(tl.maximum(q_len // TILE_Q, full_first_0), last_0)
        partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
        full_count = (full_last_0 - full_first_0)

        # tiles that are visible as a whole
        for step in tl.range(0, full_count):
            tile_index = full_first_0 + step
            q_start = tile_index * TILE_Q
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
            pair_is_at_least = q_idx >= kv_idx  # <string>:6
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

"""soft_cap: backward over kv, Triton.

    attn 1
    attention soft_cap:
      score = 30.0 * tanh(score / 30.0)

Schedule:
- tiles of 64 queries x 64 keys, 4 warps, 3 stages: fastest of those measured that keep their values in registers (H100,
  bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

- plain Triton: ATTNCC_GLUON is 0, or the installed Triton is none that Gluon kernels are tested with
"""

import triton
import triton.language as tl

TILE_Q = tl.constexpr(64)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def tanh(x):
    """Hyperbolic tangent as 1 - 2 / (1 + exp(2x)), within 1e-7."""
    return 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))


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
    for member in range(1):  # the query heads that share this key head
        h = kv_head * group + member
        q_base = q_ptr + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h
        do_base = grad_out_ptr + b.to(tl.int64) * do_stride_b + h.to(tl.int64) * do_stride_h
        head_rows = (b * heads + h).to(tl.int64) * q_len
        full_count = q_len // TILE_Q

        # tiles that are visible as a whole
        for step in tl.range(0, full_count):
            q_start = step * TILE_Q
            q_row = q_start + tl.arange(0, TILE_Q)
            q_tile = tl.load(q_base + q_row[:, None] * q_stride_n + dims[None, :])
            do_tile = tl.load(do_base + q_row[:, None] * do_stride_n + value_dims[None, :])
            lse2 = tl.load(lse2_ptr + head_rows + q_row)[None, :]
            delta = tl.load(delta_ptr + head_rows + q_row)[None, :]
            dot = tl.dot(k_tile, q_tile.T, input_precision="ieee")  # [TILE_KV, TILE_Q]
            score = dot * scale
            score_tanh = tanh(score / 30.0)  # <string>:3
            weight = tl.exp2(43.2808512266689 * score_tanh - lse2)
            grad_v = tl.dot(weight.to(do_tile.dtype), do_tile, grad_v, input_precision="ieee")
            grad_weight = tl.dot(v_tile, do_tile.T, input_precision="ieee")
            grad_score = weight * (grad_weight - delta)
            grad_dot = grad_score * (1.0 - score_tanh * score_tanh)
            grad_k = tl.dot(grad_dot.to(q_tile.dtype), q_tile, grad_k, input_precision="ieee")

        # tiles that the mask cuts, or that reach past the end
        for step in tl.range(0, tl.cdiv(q_len, TILE_Q) - full_count):
            q_start = (full_count + step) * TILE_Q
            q_row = q_start + tl.arange(0, TILE_Q)
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
            lse2 = tl.load(lse2_ptr + head_rows + q_row, mask=q_row < q_len, other=float("inf"))[None, :]
            delta = tl.load(delta_ptr + head_rows + q_row, mask=q_row < q_len, other=0.0)[None, :]
            dot = tl.dot(k_tile, q_tile.T, input_precision="ieee")  # [TILE_KV, TILE_Q]
            score = dot * scale
            score_tanh_2 = tanh(score / 30.0)  # <string>:3
            weight = tl.exp2(43.2808512266689 * score_tanh_2 - lse2)
            weight = tl.where(in_range, weight, 0.0)
            grad_v = tl.dot(weight.to(do_tile.dtype), do_tile, grad_v, input_precision="ieee")
            grad_weight = tl.dot(v_tile, do_tile.T, input_precision="ieee")
            grad_score = weight * (grad_weight - delta)
            grad_dot = tl.where(weight != 0.0, grad_score * (1.0 - score_tanh_2 * score_tanh_2), 0.0)
            grad_k = tl.dot(grad_dot.to(q_tile.dtype), q_tile, grad_k, input_precision="ieee")

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

"""soft_cap: forward, Triton.

    attn 1
    attention soft_cap:
      score = 30.0 * tanh(score / 30.0)

Schedule:
- tiles of 128 queries x 64 keys, 8 warps, 4 stages: fastest of those measured that keep their values in registers
  (H100, bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

- plain Triton: ATTNCC_GLUON is 0, or the installed Triton is none that Gluon kernels are tested with
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
TILE_Q = tl.constexpr(128)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def fast_tanh(x):
    """Hyperbolic tangent by one instruction, off by at most 2**-11 of the result."""
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


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
    tile = program % tiles
    b = program // tiles // heads
    h = program // tiles % heads
    kv_head = h // group

    q_start = tile * TILE_Q
    q_row = q_start + tl.arange(0, TILE_Q)
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
    inner_scale = scale / 30.0
    full_count = kv_len // TILE_KV

    # tiles that are visible as a whole
    for step in tl.range(0, full_count):
        kv_start = step * TILE_KV
        kv_row = kv_start + tl.arange(0, TILE_KV)
        k_tile = tl.load(k_base + kv_row[:, None] * k_stride_n + dims[None, :])
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        exponent = 43.2808512266689 * fast_tanh(dot * inner_scale)
        new_max = tl.maximum(row_max, tl.max(exponent, 1))
        shift = new_max
        weight = tl.exp2(exponent - shift[:, None])
        decay = tl.exp2(row_max - shift)
        row_sum = row_sum * decay + tl.sum(weight, 1)
        acc = acc * decay[:, None]
        v_tile = tl.load(v_base + kv_row[:, None] * v_stride_n + value_dims[None, :])
        acc = tl.dot(weight.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        row_max = new_max

    # tiles that the mask cuts, or that reach past the end
    for step in tl.range(0, tl.cdiv(kv_len, TILE_KV) - full_count):
        kv_start = (full_count + step) * TILE_KV
        kv_row = kv_start + tl.arange(0, TILE_KV)
        in_range = (kv_row < kv_len)[None, :]
        k_tile = tl.load(
            k_base + kv_row[:, None] * k_stride_n + dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        exponent = 43.2808512266689 * fast_tanh(dot * inner_scale)
        exponent = tl.where(in_range, exponent, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(exponent, 1))
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)  # a row that has seen no key yet
        weight = tl.exp2(exponent - shift[:, None])
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

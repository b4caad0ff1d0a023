"""alibi: backward over q, Gluon.

    attn 1
    attention alibi:
      capture slopes: float[heads]
      mask = q_idx >= kv_idx
      score = score - slopes[h] * (q_idx - kv_idx)

Schedule:
- Hopper kernel, tiles of 128 queries x 128 keys, 2 warpgroups compute and one warp loads, 2 stages: fastest of those
  measured (H100, bf16, B S 16384, H D 2048, full and causal, 2026-11-23)

"""

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2E = gl.constexpr(1.4426950408889634)
CONSUMERS = gl.constexpr(2)  # warpgroups that compute; each owns 64 queries of a tile
TILE_Q = gl.constexpr(128)
TILE_KV = gl.constexpr(128)
HEAD_TILE = gl.constexpr(128)
VALUE_TILE = gl.constexpr(128)
K_STAGES = gl.constexpr(2)  # tiles of K in flight
V_STAGES = gl.constexpr(2)  # tiles of V in flight
SECTION_KEYS = gl.constexpr(40960)  # keys whose K and V fill half of the L2 cache


@gluon.constexpr_function
def product_layout(columns):
    """How the threads of a warpgroup hold a product of 64 rows."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def locate(batch, heads, group, q_len, kv_len):
    """Sequence, query head and tile of queries."""
    program = gl.program_id(0)
    tiles = gl.cdiv(q_len, TILE_Q)

    # Late queries see most keys and come first; as many heads run side by side as the L2 cache holds keys of.
    together = gl.maximum(SECTION_KEYS // kv_len, 1) * group
    section = program // (tiles * together)
    first = section * together
    count = gl.minimum(batch * heads - first, together)
    rest = program - section * tiles * together
    tile = tiles - 1 - rest // count
    head = first + rest % count
    return head // heads, head % heads, tile


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, do_desc, q_tiles, k_tiles, v_tiles, do_tiles, q_full, k_full,
    k_empty, v_full, v_empty, batch, heads, group, q_len, kv_len,
):
    """Load Q and the gradient of out once, and K and V of every visited tile."""
    b, h, tile = locate(batch, heads, group, q_len, kv_len)
    kv_head = h // group
    q_start = tile * TILE_Q
    q_min = q_start
    q_max = gl.minimum(q_start + TILE_Q, q_len) - 1
    first_0 = 0 // TILE_KV
    last_0 = gl.maximum(gl.cdiv(gl.minimum(q_max + 1, kv_len), TILE_KV), first_0)
    full_first_0 = gl.minimum(gl.maximum(gl.cdiv(0, TILE_KV), first_0), last_0)
    full_last_0 = gl.minimum(gl.maximum(gl.minimum(q_min + 1, kv_len) // TILE_KV, full_first_0), last_0)
    partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
    full_count = (full_last_0 - full_first_0)
    partial_count = gl.maximum(partial_count, 1 - full_count)
    total = partial_count + full_count
    for consumer in gl.static_range(CONSUMERS):
        at = q_start + consumer * 64
        mbarrier.expect(q_full.index(consumer), q_desc.block_type.nbytes + do_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(q_desc, [b, h, at, 0], q_full.index(consumer), q_tiles.index(consumer))
        tma.async_copy_global_to_shared(do_desc, [b, h, at, 0], q_full.index(consumer), do_tiles.index(consumer))

    for visited in range(total):
        if visited < partial_count:
            tile_index = first_0 + visited
            tile_index = gl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
            kv_start = tile_index * TILE_KV
        else:
            tile_index = full_first_0 + (visited - partial_count)
            kv_start = tile_index * TILE_KV

        stage = visited % K_STAGES
        mbarrier.wait(k_empty.index(stage), ((visited // K_STAGES) & 1) ^ 1)
        mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_desc, [b, kv_head, kv_start, 0], k_full.index(stage), k_tiles.index(stage))
        stage = visited % V_STAGES
        mbarrier.wait(v_empty.index(stage), ((visited // V_STAGES) & 1) ^ 1)
        mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(v_desc, [b, kv_head, kv_start, 0], v_full.index(stage), v_tiles.index(stage))


@gluon.jit
def consume(
    CONSUMER: gl.constexpr,
    dq_desc, lse2_ptr, delta_ptr, q_tiles, k_tiles, v_tiles, do_tiles, q_full, k_full, k_empty,
    v_full, v_empty, slopes_ptr, grad_sum0_ptr, batch, heads, group, q_len, kv_len, scale,
):
    """Gradients that 64 queries own: their rows of dQ, and captured tensors indexed by b, h and q_idx.

    The scores of the next tile of keys are started behind the last product of this one.
    """
    dot_layout: gl.constexpr = product_layout(TILE_KV)
    grad_layout: gl.constexpr = product_layout(HEAD_TILE)
    row_layout: gl.constexpr = gl.SliceLayout(1, dot_layout)
    column_layout: gl.constexpr = gl.SliceLayout(0, dot_layout)
    dtype: gl.constexpr = q_tiles.dtype

    b, h, tile = locate(batch, heads, group, q_len, kv_len)
    q_start = tile * TILE_Q
    q_row = q_start + CONSUMER * 64 + gl.arange(0, 64, layout=row_layout)
    q_idx = gl.minimum(q_row, q_len - 1)[:, None]  # rows past the end repeat the last and are not stored
    q_tile = q_tiles.index(CONSUMER).reshape([64, HEAD_TILE])
    do_tile = do_tiles.index(CONSUMER).reshape([64, VALUE_TILE])
    at = (b * heads + h).to(gl.int64) * q_len + q_row
    lse2 = gl.load(lse2_ptr + at, mask=q_row < q_len, other=float("inf"))[:, None]
    delta = gl.load(delta_ptr + at, mask=q_row < q_len, other=0.0)[:, None]
    grad_q = gl.zeros([64, HEAD_TILE], gl.float32, grad_layout)
    no_dot = gl.zeros([64, TILE_KV], gl.float32, dot_layout)
    grad_sum0 = gl.zeros([64], gl.float32, row_layout)
    scale_log2 = scale * LOG2E
    head_product = gl.load(slopes_ptr + h) * LOG2E
    q_min = q_start
    q_max = gl.minimum(q_start + TILE_Q, q_len) - 1
    first_0 = 0 // TILE_KV
    last_0 = gl.maximum(gl.cdiv(gl.minimum(q_max + 1, kv_len), TILE_KV), first_0)
    full_first_0 = gl.minimum(gl.maximum(gl.cdiv(0, TILE_KV), first_0), last_0)
    full_last_0 = gl.minimum(gl.maximum(gl.minimum(q_min + 1, kv_len) // TILE_KV, full_first_0), last_0)
    partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
    full_count = (full_last_0 - full_first_0)
    partial_count = gl.maximum(partial_count, 1 - full_count)
    total = partial_count + full_count
    mbarrier.wait(q_full.index(CONSUMER), 0)
    mbarrier.wait(k_full.index(0), 0)
    first_k = k_tiles.index(0).reshape([TILE_KV, HEAD_TILE]).permute([1, 0])
    product = warpgroup_mma(q_tile, first_k, no_dot, use_acc=False, is_async=True)

    # At the edges of the loop every product has landed: one in flight there would make ptxas wait for each.
    dot = warpgroup_mma_wait(0, deps=[product])

    # tiles that the mask cuts, or that reach past the end
    for visited in range(0, partial_count):
        tile_index = first_0 + visited
        tile_index = gl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
        kv_start = tile_index * TILE_KV
        kv_row = kv_start + gl.arange(0, TILE_KV, layout=column_layout)
        kv_idx = gl.minimum(kv_row, kv_len - 1)[None, :]
        in_range = (kv_row < kv_len)[None, :]
        mbarrier.wait(v_full.index(visited % V_STAGES), (visited // V_STAGES) & 1)
        v_tile = v_tiles.index(visited % V_STAGES).reshape([TILE_KV, VALUE_TILE]).permute([1, 0])
        grad_product = warpgroup_mma(do_tile, v_tile, no_dot, use_acc=False, is_async=True)
        score_log2 = dot * scale_log2
        pair_number_2 = (q_idx - kv_idx).to(gl.float32)
        pair_is_at_least = q_idx >= kv_idx  # <string>:8
        weight = gl.exp2(score_log2 - head_product * pair_number_2 - lse2)
        weight = gl.where(in_range & pair_is_at_least, weight, 0.0)

        # Awaiting the next K here keeps ptxas from moving the wait below in front of the exponentials.
        ahead = visited + 1
        mbarrier.wait(k_full.index(ahead % K_STAGES), (ahead // K_STAGES) & 1, pred=ahead < total)
        grad_weight = warpgroup_mma_wait(0, deps=[grad_product])
        mbarrier.arrive(v_empty.index(visited % V_STAGES), count=1)
        grad_score = weight * (grad_weight - delta)
        grad_sum0 += gl.sum(gl.where(weight != 0.0, grad_score * -pair_number_2, 0.0), 1)
        grads = gl.convert_layout(grad_score.to(dtype), gl.DotOperandLayout(0, grad_layout, 2))
        k_tile = k_tiles.index(visited % K_STAGES).reshape([TILE_KV, HEAD_TILE])
        grad_q = warpgroup_mma(grads, k_tile, grad_q, is_async=True)

        # Behind the last tile this is a product of stale data, which nobody reads.
        next_k = k_tiles.index(ahead % K_STAGES).reshape([TILE_KV, HEAD_TILE]).permute([1, 0])
        product = warpgroup_mma(q_tile, next_k, no_dot, use_acc=False, is_async=True)
        grad_q = warpgroup_mma_wait(1, deps=[grad_q])
        mbarrier.arrive(k_empty.index(visited % K_STAGES), count=1)
        dot = warpgroup_mma_wait(0, deps=[product])

    # tiles that are visible as a whole
    for visited in range(partial_count, total):
        tile_index = full_first_0 + (visited - partial_count)
        kv_start = tile_index * TILE_KV
        kv_row = kv_start + gl.arange(0, TILE_KV, layout=column_layout)
        kv_idx = kv_row[None, :]
        mbarrier.wait(v_full.index(visited % V_STAGES), (visited // V_STAGES) & 1)
        v_tile = v_tiles.index(visited % V_STAGES).reshape([TILE_KV, VALUE_TILE]).permute([1, 0])
        grad_product = warpgroup_mma(do_tile, v_tile, no_dot, use_acc=False, is_async=True)
        score_log2 = dot * scale_log2
        pair_number = (q_idx - kv_idx).to(gl.float32)
        weight = gl.exp2(score_log2 - head_product * pair_number - lse2)

        # Awaiting the next K here keeps ptxas from moving the wait below in front of the exponentials.
        ahead = visited + 1
        mbarrier.wait(k_full.index(ahead % K_STAGES), (ahead // K_STAGES) & 1, pred=ahead < total)
        grad_weight = warpgroup_mma_wait(0, deps=[grad_product])
        mbarrier.arrive(v_empty.index(visited % V_STAGES), count=1)
        grad_score = weight * (grad_weight - delta)
        grad_sum0 += gl.sum(grad_score * -pair_number, 1)
        grads = gl.convert_layout(grad_score.to(dtype), gl.DotOperandLayout(0, grad_layout, 2))
        k_tile = k_tiles.index(visited % K_STAGES).reshape([TILE_KV, HEAD_TILE])
        grad_q = warpgroup_mma(grads, k_tile, grad_q, is_async=True)

        # Behind the last tile this is a product of stale data, which nobody reads.
        next_k = k_tiles.index(ahead % K_STAGES).reshape([TILE_KV, HEAD_TILE]).permute([1, 0])
        product = warpgroup_mma(q_tile, next_k, no_dot, use_acc=False, is_async=True)
        grad_q = warpgroup_mma_wait(1, deps=[grad_q])
        mbarrier.arrive(k_empty.index(visited % K_STAGES), count=1)
        dot = warpgroup_mma_wait(0, deps=[product])

    gl.store(grad_sum0_ptr + at, grad_sum0, mask=q_row < q_len)
    q_tile.store((grad_q * scale).to(dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(dq_desc, [b, h, q_start + CONSUMER * 64, 0], q_tiles.index(CONSUMER))
    tma.store_wait(0)


@gluon.jit
def backward_q(
    q_desc,  # [B, Hq, Lq, D]
    k_desc,  # [B, Hkv, Lkv, D]
    v_desc,  # [B, Hkv, Lkv, Dv]
    do_desc,  # [B, Hq, Lq, Dv]
    dq_desc,  # [B, Hq, Lq, D]
    lse2_ptr,  # [B, Hq, Lq], see prepare
    delta_ptr,  # [B, Hq, Lq], see prepare
    slopes_ptr,
    grad_sum0_ptr,
    batch, heads, group, q_len, kv_len,
    scale,
):
    """Start the warps of a program: one loads, the others compute, and barriers in shared memory join them."""
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [CONSUMERS, 1, 1, 64, HEAD_TILE], q_desc.layout)
    do_tiles = gl.allocate_shared_memory(do_desc.dtype, [CONSUMERS, 1, 1, 64, VALUE_TILE], do_desc.layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [K_STAGES, 1, 1, TILE_KV, HEAD_TILE], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [V_STAGES, 1, 1, TILE_KV, VALUE_TILE], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [K_STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [K_STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [V_STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [V_STAGES, 1], mbarrier.MBarrierLayout())
    for consumer in gl.static_range(CONSUMERS):
        mbarrier.init(q_full.index(consumer), count=1)

    for stage in gl.static_range(K_STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=CONSUMERS)

    for stage in gl.static_range(V_STAGES):
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_empty.index(stage), count=CONSUMERS)

    fence_async_shared()
    gl.warp_specialize(
        [
            (
                consume,
                (
                    gl.constexpr(0),
                    dq_desc, lse2_ptr, delta_ptr, q_tiles, k_tiles, v_tiles, do_tiles, q_full, k_full, k_empty,
                    v_full, v_empty, slopes_ptr, grad_sum0_ptr, batch, heads, group, q_len, kv_len, scale,
                ),
            ),
            (
                consume,
                (
                    gl.constexpr(1),
                    dq_desc, lse2_ptr, delta_ptr, q_tiles, k_tiles, v_tiles, do_tiles, q_full, k_full, k_empty,
                    v_full, v_empty, slopes_ptr, grad_sum0_ptr, batch, heads, group, q_len, kv_len, scale,
                ),
            ),
            (
                produce,
                (
                    q_desc, k_desc, v_desc, do_desc, q_tiles, k_tiles, v_tiles, do_tiles, q_full, k_full,
                    k_empty, v_full, v_empty, batch, heads, group, q_len, kv_len,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )

"""causal: backward in one pass, Gluon.

    attn 1
    attention causal:
      mask = q_idx >= kv_idx

Schedule:
- Hopper kernel, tiles of 64 queries x 128 keys, 2 warpgroups compute and one warp loads, 2 stages: fastest of those
  measured (H100, bf16, B S 16384, H D 2048, full and causal, 2026-11-23)

"""

import triton
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import _core
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2E = gl.constexpr(1.4426950408889634)
CONSUMERS = gl.constexpr(2)  # warpgroups that compute; each owns 64 keys of a tile
TILE_Q = gl.constexpr(64)
TILE_KV = gl.constexpr(128)
HEAD_TILE = gl.constexpr(128)
VALUE_TILE = gl.constexpr(128)
STAGES = gl.constexpr(2)  # tiles of Q, and of the gradient of out, in flight
SLOTS = gl.constexpr(2)  # tiles of gradients of scores in flight
PART = gl.constexpr(64)  # columns of dQ that are added at a time
GRADS_STORED = gl.constexpr(8)  # named barriers 8 and 9: gradients of scores are in shared memory
SECTION_ROWS = gl.constexpr(40960)  # queries whose Q and gradients fill half of the L2 cache


@gluon.constexpr_function
def product_layout(columns):
    """How the threads of a warpgroup hold a product of 64 rows."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def widen(x):
    """16 to 32 bits, by instructions that stay behind the wait in front of them."""
    if x.dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [x], gl.float32, is_pure=False, pack=2
        )
    else:
        return x.to(gl.float32)


@_core.builtin
def add_to_global(desc, coord, tile, _semantic=None):
    """Let the TMA add a tile of shared memory to a tensor; Gluon's language has no word for it."""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(ir.DESCRIPTOR_REDUCE_KIND.ADD, desc.handle, coord, tile.handle)


@gluon.constexpr_function
def barrier_text(action, threads):
    return f"barrier.{action} $1, {threads}; mov.u32 $0, 0;"


@gluon.jit
def named_barrier(number, ACTION: gl.constexpr):
    """Warpgroups that own keys `arrive`, with gradients of scores stored; the one that makes dQ is in `sync` with all."""
    numbers = gl.full([128], number, gl.int32, gl.BlockedLayout([1], [32], [4], [0]))
    text: gl.constexpr = barrier_text(ACTION, (CONSUMERS + 1) * 128)
    gl.inline_asm_elementwise(text, "=r,r", [numbers], gl.int32, is_pure=False, pack=1)


@gluon.jit
def locate(batch, heads, group, q_len, kv_len):
    """Sequence, head and tile of keys."""
    program = gl.program_id(0)
    kv_heads = heads // group
    tiles = gl.cdiv(kv_len, TILE_KV)

    # Early keys are seen by most queries and come first; as many heads run side by side as the L2 cache holds rows of.
    together = gl.maximum(SECTION_ROWS // (q_len * group), 1)
    section = program // (tiles * together)
    first = section * together
    count = gl.minimum(batch * kv_heads - first, together)
    rest = program - section * tiles * together
    tile = rest // count
    head = first + rest % count
    return head // kv_heads, head % kv_heads, tile


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, do_desc, lse2_desc, delta_desc, q_tiles, k_tiles, v_tiles,
    do_tiles, lse2_rows, delta_rows, q_full, k_full, v_full, do_full, empty, batch, heads,
    group, q_len, kv_len,
):
    """Load K and V once, and Q, the gradient of out, and what belongs to their rows for every visited tile."""
    b, kv_head, tile = locate(batch, heads, group, q_len, kv_len)
    kv_start = tile * TILE_KV
    mbarrier.expect(k_full, CONSUMERS * k_desc.block_type.nbytes)
    for consumer in gl.static_range(CONSUMERS):
        tma.async_copy_global_to_shared(
            k_desc,
            [b, kv_head, kv_start + consumer * 64, 0],
            k_full,
            k_tiles.index(consumer),
        )

    loaded = 0
    for member in range(group):
        h = kv_head * group + member
        kv_min = kv_start
        kv_max = gl.minimum(kv_start + TILE_KV, kv_len) - 1
        first_0 = kv_min // TILE_Q
        last_0 = gl.maximum(gl.cdiv(q_len, TILE_Q), first_0)
        full_first_0 = gl.minimum(gl.maximum(gl.cdiv(kv_max, TILE_Q), first_0), last_0)
        full_last_0 = gl.minimum(gl.maximum(q_len // TILE_Q, full_first_0), last_0)
        partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
        full_count = (full_last_0 - full_first_0)
        partial_count = gl.maximum(partial_count, 1 - full_count)
        total = partial_count + full_count
        for visited in range(total):
            if visited < partial_count:
                tile_index = first_0 + visited
                tile_index = gl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
                q_start = tile_index * TILE_Q
            else:
                tile_index = full_first_0 + (visited - partial_count)
                q_start = tile_index * TILE_Q

            stage = loaded % STAGES
            mbarrier.wait(empty.index(stage), ((loaded // STAGES) & 1) ^ 1)
            mbarrier.expect(q_full.index(stage), q_desc.block_type.nbytes + lse2_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(q_desc, [b, h, q_start, 0], q_full.index(stage), q_tiles.index(stage))
            tma.async_copy_global_to_shared(
                lse2_desc, [b * heads + h, q_start], q_full.index(stage), lse2_rows.index(stage)
            )
            if loaded == 0:
                mbarrier.expect(v_full, CONSUMERS * v_desc.block_type.nbytes)
                for consumer in gl.static_range(CONSUMERS):
                    tma.async_copy_global_to_shared(
                        v_desc, [b, kv_head, kv_start + consumer * 64, 0], v_full, v_tiles.index(consumer)
                    )

            mbarrier.expect(do_full.index(stage), do_desc.block_type.nbytes + delta_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(do_desc, [b, h, q_start, 0], do_full.index(stage), do_tiles.index(stage))
            tma.async_copy_global_to_shared(
                delta_desc, [b * heads + h, q_start], do_full.index(stage), delta_rows.index(stage)
            )
            loaded += 1


@gluon.jit
def consume(
    CONSUMER: gl.constexpr,
    dk_desc, dv_desc, q_tiles, k_tiles, v_tiles, do_tiles, lse2_rows, delta_rows, grad_tiles,
    q_full, k_full, v_full, do_full, empty, grads_empty, k_done, batch, heads, group, q_len,
    kv_len, scale,
):
    """Gradients that 64 keys own: their rows of dK and dV, and captured tensors indexed by b, h and kv_idx.

    Scores are held transposed, [64, TILE_Q], so that they feed the products for dK and dV as they are.
    """
    dot_layout: gl.constexpr = product_layout(TILE_Q)
    grad_k_layout: gl.constexpr = product_layout(HEAD_TILE)
    grad_v_layout: gl.constexpr = product_layout(VALUE_TILE)
    row_layout: gl.constexpr = gl.SliceLayout(1, dot_layout)
    column_layout: gl.constexpr = gl.SliceLayout(0, dot_layout)
    dtype: gl.constexpr = q_tiles.dtype

    b, kv_head, tile = locate(batch, heads, group, q_len, kv_len)
    kv_start = tile * TILE_KV
    kv_row = kv_start + CONSUMER * 64 + gl.arange(0, 64, layout=row_layout)
    kv_idx = gl.minimum(kv_row, kv_len - 1)[:, None]  # keys past the end repeat the last and are not stored
    k_tile = k_tiles.index(CONSUMER).reshape([64, HEAD_TILE])
    v_tile = v_tiles.index(CONSUMER).reshape([64, VALUE_TILE])
    grad_k = gl.zeros([64, HEAD_TILE], gl.float32, grad_k_layout)
    grad_v = gl.zeros([64, VALUE_TILE], gl.float32, grad_v_layout)
    no_dot = gl.zeros([64, TILE_Q], gl.float32, dot_layout)
    scale_log2 = scale * LOG2E
    mbarrier.wait(k_full, 0)
    mbarrier.wait(v_full, 0)
    done = 0
    for member in range(group):  # the query heads that share this key head
        kv_min = kv_start
        kv_max = gl.minimum(kv_start + TILE_KV, kv_len) - 1
        first_0 = kv_min // TILE_Q
        last_0 = gl.maximum(gl.cdiv(q_len, TILE_Q), first_0)
        full_first_0 = gl.minimum(gl.maximum(gl.cdiv(kv_max, TILE_Q), first_0), last_0)
        full_last_0 = gl.minimum(gl.maximum(q_len // TILE_Q, full_first_0), last_0)
        partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
        full_count = (full_last_0 - full_first_0)
        partial_count = gl.maximum(partial_count, 1 - full_count)
        total = partial_count + full_count

        # tiles that the mask cuts, or that reach past the end
        for visited in range(0, partial_count):
            tile_index = first_0 + visited
            tile_index = gl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
            q_start = tile_index * TILE_Q
            q_row = q_start + gl.arange(0, TILE_Q, layout=column_layout)
            q_idx = gl.minimum(q_row, q_len - 1)[None, :]
            in_range = (q_row < q_len)[None, :]
            stage = done % STAGES
            q_tile = q_tiles.index(stage).reshape([TILE_Q, HEAD_TILE])
            do_tile = do_tiles.index(stage).reshape([TILE_Q, VALUE_TILE])
            mbarrier.wait(q_full.index(stage), (done // STAGES) & 1)
            product = warpgroup_mma(k_tile, q_tile.permute([1, 0]), no_dot, use_acc=False, is_async=True)
            dot = warpgroup_mma_wait(0, deps=[product])
            lse2 = lse2_rows.index(stage).reshape([TILE_Q]).load(column_layout)[None, :]
            pair_is_at_least = q_idx >= kv_idx  # <string>:6
            weight = gl.exp2(dot * scale_log2 - lse2)
            weight = gl.where(in_range & pair_is_at_least, weight, 0.0)
            if kv_start + TILE_KV > kv_len:  # here keys past the end would count: dQ sums over them
                weight = gl.where((kv_row < kv_len)[:, None], weight, 0.0)

            narrow = weight.to(dtype)

            # Only now: both products would not fit into registers. Other warpgroups keep the tensor cores busy.
            mbarrier.wait(do_full.index(stage), (done // STAGES) & 1)
            grad_product = warpgroup_mma(v_tile, do_tile.permute([1, 0]), no_dot, use_acc=False, is_async=True)
            weights = gl.convert_layout(narrow, gl.DotOperandLayout(0, grad_v_layout, 2))
            grad_v = warpgroup_mma(weights, do_tile, grad_v, is_async=True)
            slot = done % SLOTS
            mbarrier.wait(grads_empty.index(slot), ((done // SLOTS) & 1) ^ 1)
            grad_weight = warpgroup_mma_wait(1, deps=[grad_product])
            weight = widen(narrow)  # half the registers across the wait
            delta = delta_rows.index(stage).reshape([TILE_Q]).load(column_layout)[None, :]
            grad_score = weight * (grad_weight - delta)
            grad_dot = grad_score.to(dtype)
            grad_tiles.index(slot * CONSUMERS + CONSUMER).store(grad_dot)
            fence_async_shared()
            named_barrier(GRADS_STORED + slot, "arrive")
            grads = gl.convert_layout(grad_dot, gl.DotOperandLayout(0, grad_k_layout, 2))
            grad_k = warpgroup_mma(grads, q_tile, grad_k, is_async=True)
            grad_v, grad_k = warpgroup_mma_wait(0, deps=[grad_v, grad_k])
            mbarrier.arrive(empty.index(stage), count=1)
            done += 1

        # tiles that are visible as a whole
        for visited in range(partial_count, total):
            tile_index = full_first_0 + (visited - partial_count)
            q_start = tile_index * TILE_Q
            q_row = q_start + gl.arange(0, TILE_Q, layout=column_layout)
            q_idx = q_row[None, :]
            stage = done % STAGES
            q_tile = q_tiles.index(stage).reshape([TILE_Q, HEAD_TILE])
            do_tile = do_tiles.index(stage).reshape([TILE_Q, VALUE_TILE])
            mbarrier.wait(q_full.index(stage), (done // STAGES) & 1)
            product = warpgroup_mma(k_tile, q_tile.permute([1, 0]), no_dot, use_acc=False, is_async=True)
            dot = warpgroup_mma_wait(0, deps=[product])
            lse2 = lse2_rows.index(stage).reshape([TILE_Q]).load(column_layout)[None, :]
            weight = gl.exp2(dot * scale_log2 - lse2)
            if kv_start + TILE_KV > kv_len:  # here keys past the end would count: dQ sums over them
                weight = gl.where((kv_row < kv_len)[:, None], weight, 0.0)

            narrow = weight.to(dtype)

            # Only now: both products would not fit into registers. Other warpgroups keep the tensor cores busy.
            mbarrier.wait(do_full.index(stage), (done // STAGES) & 1)
            grad_product = warpgroup_mma(v_tile, do_tile.permute([1, 0]), no_dot, use_acc=False, is_async=True)
            weights = gl.convert_layout(narrow, gl.DotOperandLayout(0, grad_v_layout, 2))
            grad_v = warpgroup_mma(weights, do_tile, grad_v, is_async=True)
            slot = done % SLOTS
            mbarrier.wait(grads_empty.index(slot), ((done // SLOTS) & 1) ^ 1)
            grad_weight = warpgroup_mma_wait(1, deps=[grad_product])
            weight = widen(narrow)  # half the registers across the wait
            delta = delta_rows.index(stage).reshape([TILE_Q]).load(column_layout)[None, :]
            grad_score = weight * (grad_weight - delta)
            grad_dot = grad_score.to(dtype)
            grad_tiles.index(slot * CONSUMERS + CONSUMER).store(grad_dot)
            fence_async_shared()
            named_barrier(GRADS_STORED + slot, "arrive")
            grads = gl.convert_layout(grad_dot, gl.DotOperandLayout(0, grad_k_layout, 2))
            grad_k = warpgroup_mma(grads, q_tile, grad_k, is_async=True)
            grad_v, grad_k = warpgroup_mma_wait(0, deps=[grad_v, grad_k])
            mbarrier.arrive(empty.index(stage), count=1)
            done += 1

    at = [b, kv_head, kv_start + CONSUMER * 64, 0]
    v_tile.store(grad_v.to(dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(dv_desc, at, v_tiles.index(CONSUMER))
    mbarrier.wait(k_done, 0)  # K is read for dQ until then
    k_tile.store((grad_k * scale).to(dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(dk_desc, at, k_tiles.index(CONSUMER))
    tma.store_wait(0)


@gluon.jit
def reduce(
    dq_sum_desc, k_tiles, grad_tiles, dq_tiles, grads_empty, k_done, batch, heads, group,
    q_len, kv_len,
):
    """Multiply the gradients of scores, as the consumers store them, with K, and have the TMA add that to dQ."""
    layout: gl.constexpr = product_layout(PART)
    b, kv_head, tile = locate(batch, heads, group, q_len, kv_len)
    kv_start = tile * TILE_KV
    nothing = gl.zeros([TILE_Q, PART], gl.float32, layout)
    done = 0
    for member in range(group):
        h = kv_head * group + member
        kv_min = kv_start
        kv_max = gl.minimum(kv_start + TILE_KV, kv_len) - 1
        first_0 = kv_min // TILE_Q
        last_0 = gl.maximum(gl.cdiv(q_len, TILE_Q), first_0)
        full_first_0 = gl.minimum(gl.maximum(gl.cdiv(kv_max, TILE_Q), first_0), last_0)
        full_last_0 = gl.minimum(gl.maximum(q_len // TILE_Q, full_first_0), last_0)
        partial_count = (full_first_0 - first_0) + (last_0 - full_last_0)
        full_count = (full_last_0 - full_first_0)
        partial_count = gl.maximum(partial_count, 1 - full_count)
        total = partial_count + full_count
        for visited in range(total):
            if visited < partial_count:
                tile_index = first_0 + visited
                tile_index = gl.where(tile_index >= full_first_0, tile_index + (full_last_0 - full_first_0), tile_index)
                q_start = tile_index * TILE_Q
            else:
                tile_index = full_first_0 + (visited - partial_count)
                q_start = tile_index * TILE_Q

            slot = done % SLOTS
            named_barrier(GRADS_STORED + slot, "sync")  # and K is there: whoever stores gradients has waited for it
            for part in gl.static_range(HEAD_TILE // PART):
                product = nothing
                for consumer in gl.static_range(CONSUMERS):
                    grads = grad_tiles.index(slot * CONSUMERS + consumer).permute([1, 0])
                    keys = k_tiles.index(consumer).reshape([64, HEAD_TILE]).slice(part * PART, PART, 1)
                    product = warpgroup_mma(grads, keys, product, use_acc=consumer > 0, is_async=True)

                share = dq_tiles.index((done * (HEAD_TILE // PART) + part) % SLOTS)
                product = warpgroup_mma_wait(0, deps=[product])
                tma.store_wait(SLOTS - 1)  # the share before the last is added; all warps have read the gradients
                if part == HEAD_TILE // PART - 1:
                    mbarrier.arrive(grads_empty.index(slot), count=1)

                share.reshape([TILE_Q, PART]).store(product)
                fence_async_shared()
                add_to_global(dq_sum_desc, [b * heads + h, q_start, part * PART], share)

            done += 1

    mbarrier.arrive(k_done, count=1)
    tma.store_wait(0)


@gluon.jit
def backward(
    q_desc,  # [B, Hq, Lq, D]
    k_desc,  # [B, Hkv, Lkv, D]
    v_desc,  # [B, Hkv, Lkv, Dv]
    do_desc,  # [B, Hq, Lq, Dv]
    lse2_desc,  # [B * Hq, Lq], see prepare
    delta_desc,  # [B * Hq, Lq], see prepare
    dk_desc,  # [B, Hkv, Lkv, D]
    dv_desc,  # [B, Hkv, Lkv, Dv]
    dq_sum_desc,  # [B * Hq, Lq, D] of float32, begun with 0
    batch, heads, group, q_len, kv_len,
    scale,
):
    """Start the warps of a program: one loads, the others compute, and barriers in shared memory join them."""
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [CONSUMERS, 1, 1, 64, HEAD_TILE], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [CONSUMERS, 1, 1, 64, VALUE_TILE], v_desc.layout)
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [STAGES, 1, 1, TILE_Q, HEAD_TILE], q_desc.layout)
    do_tiles = gl.allocate_shared_memory(do_desc.dtype, [STAGES, 1, 1, TILE_Q, VALUE_TILE], do_desc.layout)
    lse2_rows = gl.allocate_shared_memory(gl.float32, [STAGES, 1, TILE_Q], lse2_desc.layout)
    delta_rows = gl.allocate_shared_memory(gl.float32, [STAGES, 1, TILE_Q], delta_desc.layout)
    k_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    do_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    grad_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, TILE_Q], q_desc.dtype)
    grad_tiles = gl.allocate_shared_memory(q_desc.dtype, [SLOTS * CONSUMERS, 64, TILE_Q], grad_layout)
    dq_tiles = gl.allocate_shared_memory(gl.float32, [SLOTS, 1, TILE_Q, PART], dq_sum_desc.layout)
    grads_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    k_done = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(k_done, count=1)
    for slot in gl.static_range(SLOTS):
        mbarrier.init(grads_empty.index(slot), count=1)

    mbarrier.init(k_full, count=1)
    mbarrier.init(v_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(q_full.index(stage), count=1)
        mbarrier.init(do_full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=CONSUMERS)

    fence_async_shared()
    gl.warp_specialize(
        [
            (
                consume,
                (
                    gl.constexpr(0),
                    dk_desc, dv_desc, q_tiles, k_tiles, v_tiles, do_tiles, lse2_rows, delta_rows, grad_tiles,
                    q_full, k_full, v_full, do_full, empty, grads_empty, k_done, batch, heads, group, q_len,
                    kv_len, scale,
                ),
            ),
            (
                consume,
                (
                    gl.constexpr(1),
                    dk_desc, dv_desc, q_tiles, k_tiles, v_tiles, do_tiles, lse2_rows, delta_rows, grad_tiles,
                    q_full, k_full, v_full, do_full, empty, grads_empty, k_done, batch, heads, group, q_len,
                    kv_len, scale,
                ),
            ),
            (
                reduce,
                (
                    dq_sum_desc, k_tiles, grad_tiles, dq_tiles, grads_empty, k_done, batch, heads, group,
                    q_len, kv_len,
                ),
            ),
            (
                produce,
                (
                    q_desc, k_desc, v_desc, do_desc, lse2_desc, delta_desc, q_tiles, k_tiles, v_tiles,
                    do_tiles, lse2_rows, delta_rows, q_full, k_full, v_full, do_full, empty, batch, heads,
                    group, q_len, kv_len,
                ),
            ),
        ],
        [4, 4, 1],
        [208, 72, 24],
    )

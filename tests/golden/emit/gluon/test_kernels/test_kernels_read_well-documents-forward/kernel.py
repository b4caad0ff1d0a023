"""documents: forward, Gluon.

    attn 1
    attention documents:
      capture doc_ids: int[batch, kv_len]
      mask = doc_ids[b, q_idx] == doc_ids[b, kv_idx]

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
LN2 = gl.constexpr(0.6931471805599453)
CONSUMERS = gl.constexpr(2)  # warpgroups that compute; each owns 64 queries of a tile
TILE_Q = gl.constexpr(128)
TILE_KV = gl.constexpr(128)
HEAD_TILE = gl.constexpr(128)
VALUE_TILE = gl.constexpr(128)
STAGES = gl.constexpr(2)  # tiles of K, and of V, in flight
SECTION_KEYS = gl.constexpr(40960)  # keys whose K and V fill half of the L2 cache
EMPTY = gl.constexpr(10)  # named barriers 10 and 11: a stage of K is free; 12 and 13: one of V
TURN = gl.constexpr(8)  # named barriers 8 and 9: a consumer's turn to start products


@gluon.constexpr_function
def product_layout(columns):
    """How the threads of a warpgroup hold a product of 64 rows."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def columns_before(limit, layout: gl.constexpr):
    """Which columns of a tile lie before the limit of each row. A thread holds two columns of every eight: which two is
    taken off the limit, and what is left of a column is a constant of the machine code."""
    column = gl.arange(0, TILE_KV, layout=gl.SliceLayout(0, layout))[None, :]
    return (column & -7) < limit - (column & 6)


@gluon.constexpr_function
def barrier_text(action, threads):
    return f"barrier.{action} $1, {threads}; mov.u32 $0, 0;"


@gluon.jit
def named_barrier(number, ACTION: gl.constexpr, THREADS: gl.constexpr, WARPS: gl.constexpr):
    """One barrier instruction by each thread of WARPS warps: `arrive`, or `sync` with all THREADS."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    numbers = gl.full([32 * WARPS], number, gl.int32, layout)
    gl.inline_asm_elementwise(barrier_text(ACTION, THREADS), "=r,r", [numbers], gl.int32, is_pure=False, pack=1)


@gluon.jit
def release(stage, FIRST: gl.constexpr):
    """A consumer has read a stage of K (FIRST is EMPTY) or V (EMPTY + STAGES)."""
    named_barrier(FIRST + stage, "arrive", 128 * CONSUMERS + 32, 4)


@gluon.jit
def acquire(step, FIRST: gl.constexpr):
    """The producer waits until all consumers have read what lies where it loads next."""
    if step >= STAGES:
        named_barrier(FIRST + step % STAGES, "sync", 128 * CONSUMERS + 32, 1)


@gluon.jit
def program_of(turn):
    """The tile of queries that this program takes in its turn; every other turn runs backwards."""
    program, programs = gl.program_id(0), gl.num_programs(0)
    return turn * programs + gl.where(turn % 2 == 0, program, programs - 1 - program)


@gluon.jit
def locate(program, batch, heads, group, q_len, kv_len):
    """Sequence, query head and tile of queries."""
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
    q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, q_empty, k_full, v_full,
    partial_count_ptr, partial_index_ptr, full_count_ptr, full_index_ptr, batch, heads, group,
    q_len, kv_len,
):
    """Load Q once, and K and V of every visited tile, in the order in which the consumers need them."""
    tiles = gl.cdiv(q_len, TILE_Q)
    programs = tiles * batch * heads
    loaded = 0
    q_phase = 0
    for turn in range(gl.cdiv(programs, gl.num_programs(0))):
        program = program_of(turn)
        if program < programs:
            b, h, tile = locate(program, batch, heads, group, q_len, kv_len)
            kv_head = h // group
            q_start = tile * TILE_Q
            table_row = b * tiles + tile
            partial_count = gl.load(partial_count_ptr + table_row)
            full_count = gl.load(full_count_ptr + table_row)
            partial_tiles = partial_index_ptr + table_row.to(gl.int64) * gl.cdiv(kv_len, TILE_KV)
            full_tiles = full_index_ptr + table_row.to(gl.int64) * gl.cdiv(kv_len, TILE_KV)
            partial_count = partial_count.to(gl.int32)
            full_count = full_count.to(gl.int32)
            total = gl.maximum(partial_count + full_count, 1)
            if partial_count > 0:
                kv_start = (gl.load(partial_tiles) * TILE_KV).to(gl.int32)
            else:
                kv_start = (gl.load(full_tiles) * TILE_KV).to(gl.int32)

            kv_start = gl.minimum(gl.maximum(kv_start, 0), (gl.cdiv(kv_len, TILE_KV) - 1) * TILE_KV)
            acquire(loaded, EMPTY)
            mbarrier.expect(k_full.index(loaded % STAGES), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [b, kv_head, kv_start, 0], k_full.index(loaded % STAGES), k_tiles.index(loaded % STAGES)
            )
            for consumer in gl.static_range(CONSUMERS):
                mbarrier.wait(q_empty.index(consumer), q_phase ^ 1)
                mbarrier.expect(q_full.index(consumer), q_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    q_desc, [b, h, q_start + consumer * 64, 0], q_full.index(consumer), q_tiles.index(consumer)
                )

            q_phase ^= 1
            v_start = kv_start
            for visited in range(1, total):
                if visited < partial_count:
                    kv_start = (gl.load(partial_tiles + visited) * TILE_KV).to(gl.int32)
                    kv_start = gl.minimum(gl.maximum(kv_start, 0), (gl.cdiv(kv_len, TILE_KV) - 1) * TILE_KV)
                else:
                    kv_start = (gl.load(full_tiles + (visited - partial_count)) * TILE_KV).to(gl.int32)

                kv_start = gl.minimum(gl.maximum(kv_start, 0), (gl.cdiv(kv_len, TILE_KV) - 1) * TILE_KV)
                ahead = loaded + 1
                acquire(ahead, EMPTY)
                mbarrier.expect(k_full.index(ahead % STAGES), k_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    k_desc, [b, kv_head, kv_start, 0], k_full.index(ahead % STAGES), k_tiles.index(ahead % STAGES)
                )
                acquire(loaded, EMPTY + STAGES)
                mbarrier.expect(v_full.index(loaded % STAGES), v_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    v_desc, [b, kv_head, v_start, 0], v_full.index(loaded % STAGES), v_tiles.index(loaded % STAGES)
                )
                v_start = kv_start
                loaded = ahead

            acquire(loaded, EMPTY + STAGES)
            mbarrier.expect(v_full.index(loaded % STAGES), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                v_desc, [b, kv_head, v_start, 0], v_full.index(loaded % STAGES), v_tiles.index(loaded % STAGES)
            )
            loaded += 1

    for step in range(gl.maximum(loaded, STAGES), loaded + STAGES):  # leave no barrier half full
        acquire(step, EMPTY)
        acquire(step, EMPTY + STAGES)


@gluon.jit
def consume(
    CONSUMER: gl.constexpr,
    out_desc, lse_ptr, largest_ptr, sums_ptr, q_tiles, k_tiles, v_tiles, out_tiles, q_full,
    q_empty, k_full, v_full, doc_ids_ptr, doc_ids_stride_0, partial_count_ptr,
    partial_index_ptr, full_count_ptr, full_index_ptr, batch, heads, group, q_len, kv_len,
    scale,
):
    """Attend from 64 queries of each tile. The scores of the next tile of keys, and the product of this one's weights
    with V, run while the weights of the next are worked out."""
    dot_layout: gl.constexpr = product_layout(TILE_KV)
    out_layout: gl.constexpr = product_layout(VALUE_TILE)
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, dot_layout)
    column_layout: gl.constexpr = gl.SliceLayout(0, dot_layout)
    out_row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)
    dtype: gl.constexpr = q_tiles.dtype

    tiles = gl.cdiv(q_len, TILE_Q)
    programs = tiles * batch * heads
    done = 0
    q_phase = 0
    q_tile = q_tiles.index(CONSUMER).reshape([64, HEAD_TILE])
    no_dot = gl.zeros([64, TILE_KV], gl.float32, dot_layout)
    scale_log2 = scale * LOG2E
    if CONSUMER == 1:
        named_barrier(TURN, "arrive", 256, 4)  # the first turn is the other's

    for turn in range(gl.cdiv(programs, gl.num_programs(0))):
        program = program_of(turn)
        if program < programs:
            b, h, tile = locate(program, batch, heads, group, q_len, kv_len)
            q_start = tile * TILE_Q
            q_row = q_start + CONSUMER * 64 + gl.arange(0, 64, layout=row_layout)
            q_idx = gl.minimum(q_row, q_len - 1)[:, None]  # rows past the end repeat the last and are not stored
            query_doc_ids = gl.load(doc_ids_ptr + b * doc_ids_stride_0 + q_idx)  # <string>:7
            table_row = b * tiles + tile
            partial_count = gl.load(partial_count_ptr + table_row)
            full_count = gl.load(full_count_ptr + table_row)
            partial_tiles = partial_index_ptr + table_row.to(gl.int64) * gl.cdiv(kv_len, TILE_KV)
            full_tiles = full_index_ptr + table_row.to(gl.int64) * gl.cdiv(kv_len, TILE_KV)
            partial_count = partial_count.to(gl.int32)
            full_count = full_count.to(gl.int32)
            total = gl.maximum(partial_count + full_count, 1)

            # the first tile
            mbarrier.wait(k_full.index(done % STAGES), (done // STAGES) & 1)
            mbarrier.wait(q_full.index(CONSUMER), q_phase)
            named_barrier(TURN + CONSUMER, "sync", 256, 4)
            k_tile = k_tiles.index(done % STAGES).reshape([TILE_KV, HEAD_TILE]).permute([1, 0])
            dot = warpgroup_mma(q_tile, k_tile, no_dot, use_acc=False, is_async=True)
            named_barrier(TURN + 1 - CONSUMER, "arrive", 256, 4)
            dot = warpgroup_mma_wait(0, deps=[dot])
            release(done % STAGES, EMPTY)
            if partial_count > 0:
                kv_start = (gl.load(partial_tiles) * TILE_KV).to(gl.int32)
            else:
                kv_start = (gl.load(full_tiles) * TILE_KV).to(gl.int32)

            kv_start = gl.minimum(gl.maximum(kv_start, 0), (gl.cdiv(kv_len, TILE_KV) - 1) * TILE_KV)
            kv_row = kv_start + gl.arange(0, TILE_KV, layout=column_layout)
            kv_idx = gl.minimum(kv_row, kv_len - 1)[None, :]
            pair_is_equal = query_doc_ids == gl.load(doc_ids_ptr + b * doc_ids_stride_0 + kv_idx)  # <string>:7
            dot = gl.where(columns_before(kv_len - kv_start, dot_layout) & pair_is_equal, dot, float("-inf"))
            row_max = gl.max(dot, 1) * scale_log2
            shift = gl.where(row_max == float("-inf"), 0.0, row_max)  # a row that has seen no key yet
            weight = gl.exp2(dot * scale_log2 - shift[:, None])
            row_sum = gl.sum(weight, 1)
            weight_tile = gl.convert_layout(weight.to(dtype), weight_layout)
            acc = gl.zeros([64, VALUE_TILE], gl.float32, out_layout)
            mbarrier.wait(k_full.index((done + 1) % STAGES), ((done + 1) // STAGES) & 1, pred=total > 1)
            for visited in range(1, total):
                named_barrier(TURN + CONSUMER, "sync", 256, 4)
                next_k = k_tiles.index((done + 1) % STAGES).reshape([TILE_KV, HEAD_TILE]).permute([1, 0])
                dot = warpgroup_mma(q_tile, next_k, no_dot, use_acc=False, is_async=True)
                mbarrier.wait(v_full.index(done % STAGES), (done // STAGES) & 1)
                v_tile = v_tiles.index(done % STAGES).reshape([TILE_KV, VALUE_TILE])
                acc = warpgroup_mma(weight_tile, v_tile, acc, is_async=True)
                named_barrier(TURN + 1 - CONSUMER, "arrive", 256, 4)
                dot = warpgroup_mma_wait(1, deps=[dot])
                release((done + 1) % STAGES, EMPTY)
                if visited < partial_count:  # tiles that the mask cuts, or that reach past the end
                    kv_start = (gl.load(partial_tiles + visited) * TILE_KV).to(gl.int32)
                    kv_start = gl.minimum(gl.maximum(kv_start, 0), (gl.cdiv(kv_len, TILE_KV) - 1) * TILE_KV)
                    kv_row = kv_start + gl.arange(0, TILE_KV, layout=column_layout)
                    kv_idx = gl.minimum(kv_row, kv_len - 1)[None, :]
                    pair_is_equal = query_doc_ids == gl.load(doc_ids_ptr + b * doc_ids_stride_0 + kv_idx)  # <string>:7
                    dot = gl.where(columns_before(kv_len - kv_start, dot_layout) & pair_is_equal, dot, float("-inf"))

                new_max = gl.maximum(row_max, gl.max(dot, 1) * scale_log2)
                shift = gl.where(new_max == float("-inf"), 0.0, new_max)
                weight = gl.exp2(dot * scale_log2 - shift[:, None])
                decay = gl.exp2(row_max - shift)
                row_sum = row_sum * decay + gl.sum(weight, 1)
                row_max = new_max

                # Awaiting the next K here keeps ptxas from moving the wait below in front of the exponentials.
                mbarrier.wait(
                    k_full.index((done + 2) % STAGES), ((done + 2) // STAGES) & 1, pred=visited + 1 < total
                )
                acc = warpgroup_mma_wait(0, deps=[acc])
                release(done % STAGES, EMPTY + STAGES)
                acc = acc * gl.convert_layout(decay, out_row_layout)[:, None]
                weight_tile = gl.convert_layout(weight.to(dtype), weight_layout)
                done += 1

            mbarrier.arrive(q_empty.index(CONSUMER), count=1)
            mbarrier.wait(v_full.index(done % STAGES), (done // STAGES) & 1)
            named_barrier(TURN + CONSUMER, "sync", 256, 4)
            last_v = v_tiles.index(done % STAGES).reshape([TILE_KV, VALUE_TILE])
            acc = warpgroup_mma(weight_tile, last_v, acc, is_async=True)
            named_barrier(TURN + 1 - CONSUMER, "arrive", 256, 4)
            unseen = row_sum == 0.0  # no visible key: out is 0 and lse -inf
            lse = gl.where(unseen, float("-inf"), (row_max + gl.log2(row_sum)) * LN2)
            share = gl.convert_layout(1.0 / gl.where(unseen, 1.0, row_sum), out_row_layout)
            at = (b * heads + h).to(gl.int64) * q_len + q_row
            gl.store(lse_ptr + at, lse, mask=q_row < q_len)
            gl.store(largest_ptr + at, row_max, mask=q_row < q_len)
            gl.store(sums_ptr + at, row_sum, mask=q_row < q_len)
            acc = warpgroup_mma_wait(0, deps=[acc])
            release(done % STAGES, EMPTY + STAGES)
            done += 1
            q_phase ^= 1
            out_tile = out_tiles.index(CONSUMER)
            tma.store_wait(0)  # the former tile has left
            out_tile.reshape([64, VALUE_TILE]).store((acc * share[:, None]).to(dtype))
            fence_async_shared()
            tma.async_copy_shared_to_global(out_desc, [b, h, q_start + CONSUMER * 64, 0], out_tile)

    tma.store_wait(0)
    if CONSUMER == 0:
        named_barrier(TURN, "sync", 256, 4)  # the other's last arrival


@gluon.jit
def forward(
    q_desc,  # [B, Hq, Lq, D]
    k_desc,  # [B, Hkv, Lkv, D]
    v_desc,  # [B, Hkv, Lkv, Dv]
    out_desc,  # [B, Hq, Lq, Dv]
    lse_ptr,  # [B, Hq, Lq], natural logarithm
    largest_ptr,  # [B, Hq, Lq], largest score of each row, in base 2
    sums_ptr,  # [B, Hq, Lq], sum of 2 ** (score - largest)
    doc_ids_ptr,
    doc_ids_stride_0,
    partial_count_ptr,
    partial_index_ptr,
    full_count_ptr,
    full_index_ptr,
    batch, heads, group, q_len, kv_len,
    scale,
):
    """Start the warps of a program: one loads, the others attend, and barriers in shared memory join them."""
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [CONSUMERS, 1, 1, 64, HEAD_TILE], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, 1, TILE_KV, HEAD_TILE], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [STAGES, 1, 1, TILE_KV, VALUE_TILE], v_desc.layout)
    out_tiles = gl.allocate_shared_memory(out_desc.dtype, [CONSUMERS, 1, 1, 64, VALUE_TILE], out_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for consumer in gl.static_range(CONSUMERS):
        mbarrier.init(q_full.index(consumer), count=1)
        mbarrier.init(q_empty.index(consumer), count=1)

    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)

    fence_async_shared()
    gl.warp_specialize(
        [
            (
                consume,
                (
                    gl.constexpr(0),
                    out_desc, lse_ptr, largest_ptr, sums_ptr, q_tiles, k_tiles, v_tiles, out_tiles, q_full,
                    q_empty, k_full, v_full, doc_ids_ptr, doc_ids_stride_0, partial_count_ptr,
                    partial_index_ptr, full_count_ptr, full_index_ptr, batch, heads, group, q_len, kv_len,
                    scale,
                ),
            ),
            (
                consume,
                (
                    gl.constexpr(1),
                    out_desc, lse_ptr, largest_ptr, sums_ptr, q_tiles, k_tiles, v_tiles, out_tiles, q_full,
                    q_empty, k_full, v_full, doc_ids_ptr, doc_ids_stride_0, partial_count_ptr,
                    partial_index_ptr, full_count_ptr, full_index_ptr, batch, heads, group, q_len, kv_len,
                    scale,
                ),
            ),
            (
                produce,
                (
                    q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, q_empty, k_full, v_full,
                    partial_count_ptr, partial_index_ptr, full_count_ptr, full_index_ptr, batch, heads, group,
                    q_len, kv_len,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )

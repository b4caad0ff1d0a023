"""Attention of 128 queries: two consumers take turns at the products, and named barriers free the stages."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

STAGES = gl.constexpr(2)
TILE_KV = gl.constexpr(64)
HEAD_DIM = gl.constexpr(64)
TURN = gl.constexpr(8)  # named barriers 8 and 9: the turn of either consumer
EMPTY = gl.constexpr(10)  # named barriers 10 and 11: a stage is free
LN2 = gl.constexpr(0.6931471805599453)


@gluon.constexpr_function
def product_layout(columns):
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.constexpr_function
def barrier_text(action, threads):
    return f"barrier.{action} $1, {threads}; mov.u32 $0, 0;"


@gluon.jit
def named_barrier(number, ACTION: gl.constexpr, THREADS: gl.constexpr, WARPS: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    numbers = gl.full([32 * WARPS], number, gl.int32, layout)
    gl.inline_asm_elementwise(barrier_text(ACTION, THREADS), "=r,r", [numbers], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def produce(q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, full, kv_len):
    mbarrier.expect(q_full.index(0), 2 * q_desc.block_type.nbytes)
    for consumer in gl.static_range(2):
        row = gl.program_id(0) * 128 + consumer * 64
        tma.async_copy_global_to_shared(q_desc, [0, 0, row, 0], q_full.index(0), q_tiles.index(consumer))
    tiles = gl.cdiv(kv_len, TILE_KV)
    for tile in range(tiles):
        stage = tile % STAGES
        if tile >= STAGES:
            named_barrier(EMPTY + stage, "sync", 288, 1)
        mbarrier.expect(full.index(stage), k_desc.block_type.nbytes + v_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_desc, [0, 0, tile * TILE_KV, 0], full.index(stage), k_tiles.index(stage))
        tma.async_copy_global_to_shared(v_desc, [0, 0, tile * TILE_KV, 0], full.index(stage), v_tiles.index(stage))
    for tile in range(gl.maximum(tiles, STAGES), tiles + STAGES):  # leave no barrier half full
        named_barrier(EMPTY + tile % STAGES, "sync", 288, 1)


@gluon.jit
def consume(CONSUMER: gl.constexpr, lse_ptr, out_desc, q_tiles, k_tiles, v_tiles, q_full, full, q_len, kv_len, scale):
    dot_layout: gl.constexpr = product_layout(TILE_KV)
    out_layout: gl.constexpr = product_layout(HEAD_DIM)
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, dot_layout)
    out_row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)
    q_tile = q_tiles.index(CONSUMER).reshape([64, HEAD_DIM])
    row_max = gl.full([64], float("-inf"), gl.float32, row_layout)
    row_sum = gl.zeros([64], gl.float32, row_layout)
    acc = gl.zeros([64, HEAD_DIM], gl.float32, out_layout)
    if CONSUMER == 1:
        named_barrier(TURN, "arrive", 256, 4)  # the first turn is the other's
    mbarrier.wait(q_full.index(0), 0)
    for tile in range(gl.cdiv(kv_len, TILE_KV)):
        stage = tile % STAGES
        mbarrier.wait(full.index(stage), (tile // STAGES) & 1)
        named_barrier(TURN + CONSUMER, "sync", 256, 4)
        k_tile = k_tiles.index(stage).reshape([TILE_KV, HEAD_DIM])
        dot = warpgroup_mma(
            q_tile,
            k_tile.permute([1, 0]),
            gl.zeros([64, TILE_KV], gl.float32, dot_layout),
            use_acc=False,
            is_async=True,
        )
        named_barrier(TURN + 1 - CONSUMER, "arrive", 256, 4)
        dot = warpgroup_mma_wait(0, deps=[dot])
        kv_row = tile * TILE_KV + gl.arange(0, TILE_KV, layout=gl.SliceLayout(0, dot_layout))
        dot = gl.where((kv_row < kv_len)[None, :], dot * scale, float("-inf"))
        new_max = gl.maximum(row_max, gl.max(dot, 1))
        weight = gl.exp2(dot - new_max[:, None])
        decay = gl.exp2(row_max - new_max)
        row_sum = row_sum * decay + gl.sum(weight, 1)
        row_max = new_max
        acc = acc * gl.convert_layout(decay, out_row_layout)[:, None]
        weight_tile = gl.convert_layout(weight.to(out_desc.dtype), weight_layout)
        v_tile = v_tiles.index(stage).reshape([TILE_KV, HEAD_DIM])
        acc = warpgroup_mma(weight_tile, v_tile, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        named_barrier(EMPTY + stage, "arrive", 288, 4)
    if CONSUMER == 0:
        named_barrier(TURN, "sync", 256, 4)  # the other's last arrival
    q_row = gl.program_id(0) * 128 + CONSUMER * 64 + gl.arange(0, 64, layout=row_layout)
    gl.store(lse_ptr + q_row, (row_max + gl.log2(row_sum)) * LN2, mask=q_row < q_len)
    out_tile = q_tiles.index(CONSUMER)  # q has been read
    acc = acc / gl.convert_layout(row_sum, out_row_layout)[:, None]
    out_tile.reshape([64, HEAD_DIM]).store(acc.to(out_desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(out_desc, [0, 0, gl.program_id(0) * 128 + CONSUMER * 64, 0], out_tile)
    tma.store_wait(0)


@gluon.jit
def attend(q_desc, k_desc, v_desc, out_desc, lse_ptr, q_len, kv_len, scale):
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [2, 1, 1, 64, HEAD_DIM], q_desc.layout)
    k_tiles = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, 1, TILE_KV, HEAD_DIM], k_desc.layout)
    v_tiles = gl.allocate_shared_memory(v_desc.dtype, [STAGES, 1, 1, TILE_KV, HEAD_DIM], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full.index(0), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (
                consume,
                (gl.constexpr(0), lse_ptr, out_desc, q_tiles, k_tiles, v_tiles, q_full, full, q_len, kv_len, scale),
            ),
            (
                consume,
                (gl.constexpr(1), lse_ptr, out_desc, q_tiles, k_tiles, v_tiles, q_full, full, q_len, kv_len, scale),
            ),
            (produce, (q_desc, k_desc, v_desc, q_tiles, k_tiles, v_tiles, q_full, full, kv_len)),
        ],
        [4, 1],
        [240, 24],
    )

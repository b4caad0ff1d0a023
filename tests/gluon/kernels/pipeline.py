"""out = a @ b in two stages: a producer loads, two consumers multiply 64 rows each and store what they have."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

CONSUMERS = gl.constexpr(2)
STAGES = gl.constexpr(2)
INNER = gl.constexpr(64)  # columns of a and rows of b in a stage
COLUMNS = gl.constexpr(64)


@gluon.constexpr_function
def product_layout(columns):
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def produce(a_desc, b_desc, a_tiles, b_tiles, full, empty, rows, inner):
    loaded = 0
    for tile in range(gl.program_id(0), gl.cdiv(rows, 64 * CONSUMERS), gl.num_programs(0)):
        for step in range(gl.cdiv(inner, INNER)):
            stage = loaded % STAGES
            mbarrier.wait(empty.index(stage), ((loaded // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), CONSUMERS * a_desc.block_type.nbytes + b_desc.block_type.nbytes)
            for consumer in gl.static_range(CONSUMERS):
                row = (tile * CONSUMERS + consumer) * 64
                tma.async_copy_global_to_shared(
                    a_desc, [row, step * INNER], full.index(stage), a_tiles.index(stage * CONSUMERS + consumer)
                )
            tma.async_copy_global_to_shared(b_desc, [step * INNER, 0], full.index(stage), b_tiles.index(stage))
            loaded += 1


@gluon.jit
def consume(CONSUMER: gl.constexpr, out_desc, a_tiles, b_tiles, out_tiles, full, empty, rows, inner):
    layout: gl.constexpr = product_layout(COLUMNS)
    done = 0
    for tile in range(gl.program_id(0), gl.cdiv(rows, 64 * CONSUMERS), gl.num_programs(0)):
        acc = gl.zeros([64, COLUMNS], gl.float32, layout)
        for step in range(gl.cdiv(inner, INNER)):
            stage = done % STAGES
            mbarrier.wait(full.index(stage), (done // STAGES) & 1)
            acc = warpgroup_mma(a_tiles.index(stage * CONSUMERS + CONSUMER), b_tiles.index(stage), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=[acc])
            # the product before this one has read its stage
            mbarrier.arrive(empty.index((done + 1) % STAGES), count=1, pred=step > 0)
            done += 1
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(empty.index((done - 1) % STAGES), count=1)
        out_tile = out_tiles.index(CONSUMER)
        tma.store_wait(0)  # the former tile has left
        out_tile.store(acc.to(out_desc.dtype))
        fence_async_shared()
        tma.async_copy_shared_to_global(out_desc, [(tile * CONSUMERS + CONSUMER) * 64, 0], out_tile)
    tma.store_wait(0)


@gluon.jit
def multiply(a_desc, b_desc, out_desc, rows, inner):
    a_tiles = gl.allocate_shared_memory(a_desc.dtype, [STAGES * CONSUMERS, 64, INNER], a_desc.layout)
    b_tiles = gl.allocate_shared_memory(b_desc.dtype, [STAGES, INNER, COLUMNS], b_desc.layout)
    out_tiles = gl.allocate_shared_memory(out_desc.dtype, [CONSUMERS, 64, COLUMNS], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=CONSUMERS)
    fence_async_shared()
    gl.warp_specialize(
        [
            (consume, (gl.constexpr(0), out_desc, a_tiles, b_tiles, out_tiles, full, empty, rows, inner)),
            (consume, (gl.constexpr(1), out_desc, a_tiles, b_tiles, out_tiles, full, empty, rows, inner)),
            (produce, (a_desc, b_desc, a_tiles, b_tiles, full, empty, rows, inner)),
        ],
        [4, 1],
        [240, 24],
    )

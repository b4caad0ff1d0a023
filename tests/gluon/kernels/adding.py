"""out += (x @ w.T) @ w, the rows of w split among programs: one partition makes scores, another adds its products."""

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

STAGES = gl.constexpr(2)
BUFFERS = gl.constexpr(2)
DIM = gl.constexpr(64)
SCORES = gl.constexpr(8)  # named barriers 8 and 9: the scores of a stage are in shared memory


@_core.builtin
def reduce_add(desc, coord, src, _semantic=None):
    """Add a block to global memory by the TMA."""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(ir.DESCRIPTOR_REDUCE_KIND.ADD, desc.handle, coord, src.handle)


@gluon.constexpr_function
def product_layout(columns):
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def named_barrier(number, TEXT: gl.constexpr):
    numbers = gl.full([128], number, gl.int32, gl.BlockedLayout([1], [32], [4], [0]))
    gl.inline_asm_elementwise(TEXT, "=r,r", [numbers], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def score(x_desc, w_desc, x_tile, w_tile, scores, full, empty, rows):
    layout: gl.constexpr = product_layout(64)
    for step in range(gl.cdiv(rows, 64)):
        stage = step % STAGES
        mbarrier.expect(full.index(0), x_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(x_desc, [step * 64, 0], full.index(0), x_tile)
        mbarrier.wait(full.index(0), step & 1)
        no_dot = gl.zeros([64, 64], gl.float32, layout)
        dot = warpgroup_mma(x_tile, w_tile.permute([1, 0]), no_dot, use_acc=False, is_async=True)
        mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
        dot = warpgroup_mma_wait(0, deps=[dot])
        scores.index(stage).store(dot.to(x_desc.dtype))
        fence_async_shared()
        named_barrier(SCORES + stage, "barrier.arrive $1, 256; mov.u32 $0, 0;")


@gluon.jit
def add(out_desc, w_tile, scores, sums, empty, rows):
    layout: gl.constexpr = product_layout(DIM)
    for step in range(gl.cdiv(rows, 64)):
        stage = step % STAGES
        named_barrier(SCORES + stage, "barrier.sync $1, 256; mov.u32 $0, 0;")
        no_sum = gl.zeros([64, DIM], gl.float32, layout)
        total = warpgroup_mma(scores.index(stage), w_tile, no_sum, use_acc=False, is_async=True)
        total = warpgroup_mma_wait(0, deps=[total])
        mbarrier.arrive(empty.index(stage), count=1)
        tma.store_wait(BUFFERS - 1)
        sums.index(step % BUFFERS).store(total)
        fence_async_shared()
        reduce_add(out_desc, [step * 64, 0], sums.index(step % BUFFERS))
    tma.store_wait(0)


@gluon.jit
def accumulate(x_desc, w_desc, out_desc, rows):
    x_tile = gl.allocate_shared_memory(x_desc.dtype, [64, DIM], x_desc.layout)
    w_tile = gl.allocate_shared_memory(w_desc.dtype, [64, DIM], w_desc.layout)
    scores_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, 64], x_desc.dtype)
    scores = gl.allocate_shared_memory(x_desc.dtype, [STAGES, 64, 64], scores_layout)
    sums = gl.allocate_shared_memory(gl.float32, [BUFFERS, 64, DIM], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(full.index(i), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(empty.index(stage), count=1)
    fence_async_shared()
    mbarrier.expect(full.index(1), w_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(w_desc, [gl.program_id(0) * 64, 0], full.index(1), w_tile)
    mbarrier.wait(full.index(1), 0)
    gl.warp_specialize(
        [
            (score, (x_desc, w_desc, x_tile, w_tile, scores, full, empty, rows)),
            (add, (out_desc, w_tile, scores, sums, empty, rows)),
        ],
        [4],
        [128],
    )

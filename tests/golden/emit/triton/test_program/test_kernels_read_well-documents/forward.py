"""documents: forward, Triton.

    attn 1
    attention documents:
      capture doc_ids: int[batch, kv_len]
      mask = doc_ids[b, q_idx] == doc_ids[b, kv_idx]

Schedule:
- tiles of 128 queries x 64 keys, 8 warps, 4 stages: fastest of those measured that keep their values in registers
  (H100, bf16, B2 S8192 H*D 2048, full and causal, 2026-11-23)

"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
TILE_Q = tl.constexpr(128)
TILE_KV = tl.constexpr(64)
HEAD_TILE = tl.constexpr(64)
VALUE_TILE = tl.constexpr(64)


@triton.jit
def forward(
    q_ptr,  # [B, Hq, Lq, D]
    k_ptr,  # [B, Hkv, Lkv, D]
    v_ptr,  # [B, Hkv, Lkv, Dv]
    out_ptr,  # [B, Hq, Lq, Dv]
    lse_ptr,  # [B, Hq, Lq], natural logarithm
    largest_ptr,  # [B, Hq, Lq], largest score of each row, in base 2
    sums_ptr,  # [B, Hq, Lq], sum of 2 ** (score - largest)
    doc_ids_ptr,
    doc_ids_stride_0,
    partial_count_ptr,
    partial_index_ptr,
    full_count_ptr,
    full_index_ptr,
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
    k_base = k_ptr + b.to(tl.int64) * k_stride_b + kv_head.to(tl.int64) * k_stride_h
    v_base = v_ptr + b.to(tl.int64) * v_stride_b + kv_head.to(tl.int64) * v_stride_h
    row_in_tile = tl.arange(0, TILE_Q)[:, None]
    q_tile = tl.load(q_base + row_in_tile * q_stride_n + dims[None, :], mask=(q_row < q_len)[:, None], other=0.0)
    row_max = tl.full([TILE_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([TILE_Q], tl.float32)
    acc = tl.zeros([TILE_Q, VALUE_TILE], tl.float32)
    scale_log2 = scale * LOG2E
    query_doc_ids = tl.load(doc_ids_ptr + b * doc_ids_stride_0 + q_idx)  # <string>:7
    table_row = b * tiles + tile
    partial_count = tl.load(partial_count_ptr + table_row)
    full_count = tl.load(full_count_ptr + table_row)
    partial_tiles = partial_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)
    full_tiles = full_index_ptr + table_row.to(tl.int64) * tl.cdiv(kv_len, TILE_KV)

    # tiles that are visible as a whole
    tile_index = tl.load(full_tiles, mask=0 < full_count, other=0)
    for step in tl.range(0, full_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(full_tiles + step + 1, mask=step + 1 < full_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = kv_row[None, :]
        k_tile = tl.load(k_base + kv_row[:, None] * k_stride_n + dims[None, :])
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        new_max = tl.maximum(row_max, tl.max(dot, 1) * scale_log2)
        shift = new_max
        weight = tl.exp2(dot * scale_log2 - shift[:, None])
        decay = tl.exp2(row_max - shift)
        row_sum = row_sum * decay + tl.sum(weight, 1)
        acc = acc * decay[:, None]
        v_tile = tl.load(v_base + kv_row[:, None] * v_stride_n + value_dims[None, :])
        acc = tl.dot(weight.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        row_max = new_max

    # tiles that the mask cuts, or that reach past the end
    tile_index = tl.load(partial_tiles, mask=0 < partial_count, other=0)
    for step in tl.range(0, partial_count):
        kv_start = tile_index * TILE_KV
        tile_index = tl.load(partial_tiles + step + 1, mask=step + 1 < partial_count, other=0)
        kv_row = kv_start + tl.arange(0, TILE_KV)
        kv_idx = tl.minimum(kv_row, kv_len - 1)[None, :]
        in_range = (kv_row < kv_len)[None, :]
        k_tile = tl.load(
            k_base + kv_row[:, None] * k_stride_n + dims[None, :],
            mask=(kv_row < kv_len)[:, None],
            other=0.0,
        )
        dot = tl.dot(q_tile, k_tile.T, input_precision="ieee")  # [TILE_Q, TILE_KV]
        pair_is_equal = query_doc_ids == tl.load(doc_ids_ptr + b * doc_ids_stride_0 + kv_idx)  # <string>:7
        dot = tl.where(in_range & pair_is_equal, dot, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(dot, 1) * scale_log2)
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)  # a row that has seen no key yet
        weight = tl.exp2(dot * scale_log2 - shift[:, None])
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


"""The tiles that a mask visits."""
import triton
import triton.language as tl

TILE_Q = tl.constexpr(128)
TILE_KV = tl.constexpr(64)
CHUNK = tl.constexpr(128)


@triton.jit
def list_tiles(
    partial_count_ptr,  # [rows], result: how many tiles the mask must cut, or reach past the end
    partial_index_ptr,  # [rows, walked tiles], result: which
    full_count_ptr,  # [rows], result: how many tiles are visible as a whole
    full_index_ptr,  # [rows, walked tiles], result: which
    stat0_min_ptr,
    stat0_max_ptr,
    stat0_stride_b,
    stat0_stride_h,
    stat1_min_ptr,
    stat1_max_ptr,
    stat1_stride_b,
    stat1_stride_h,
    ascending_ptr,
    table_heads, q_len, kv_len,
):
    """List, for one tile of queries, the tiles of keys that hold a visible pair; in ascending order."""
    tiles = tl.cdiv(q_len, TILE_Q)
    walked_tiles = tl.cdiv(kv_len, TILE_KV)
    row = tl.program_id(0)
    tile = row % tiles
    h = row // tiles % table_heads
    b = row // tiles // table_heads
    q_tile = tile
    partial_tiles = partial_index_ptr + row.to(tl.int64) * walked_tiles
    full_tiles = full_index_ptr + row.to(tl.int64) * walked_tiles
    partial_count = 0
    full_count = 0
    first = 0
    last = walked_tiles

    # along what ascends the tiles to visit lie between two bounds; each round finds them in a part 1 / CHUNK as wide
    width = tl.where(tl.load(ascending_ptr + row // tiles), walked_tiles, 0)
    last = walked_tiles - width
    while width > 0:
        part = tl.cdiv(width, CHUNK)
        walked = first + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & ((stat0_max >= stat1_min) == 0)).to(tl.int32), 0)
        first += part * before
        walked = last + part * (tl.arange(0, CHUNK) + 1) - 1
        exists = walked < walked_tiles
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        before = tl.sum((exists & (stat1_max >= stat0_min)).to(tl.int32), 0)
        last += part * before
        width = part - 1

    for start in range(first, last, CHUNK):
        walked = start + tl.arange(0, CHUNK)
        exists = walked < last
        walked = tl.minimum(walked, walked_tiles - 1)
        kv_tile = walked
        kv_min = walked * TILE_KV
        complete = kv_min + TILE_KV <= kv_len
        stat0_min = tl.load(stat0_min_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat0_max = tl.load(stat0_max_ptr + b * stat0_stride_b + h * stat0_stride_h + kv_tile)
        stat1_min = tl.load(stat1_min_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        stat1_max = tl.load(stat1_max_ptr + b * stat1_stride_b + h * stat1_stride_h + q_tile)
        visit = exists & ((stat0_max >= stat1_min) & (stat1_max >= stat0_min))

        # Triton 3.9's interpreter takes comparisons as masks, no splats
        full = (visit & complete & ((stat1_min >= stat0_max) & (stat0_min >= stat1_max))) != 0
        partial = (visit & (full == 0)) != 0
        partial_at = partial_count + tl.cumsum(partial.to(tl.int32), 0) - 1
        full_at = full_count + tl.cumsum(full.to(tl.int32), 0) - 1
        tl.store(partial_tiles + partial_at, walked, mask=partial)
        tl.store(full_tiles + full_at, walked, mask=full)
        partial_count += tl.sum(partial.to(tl.int32), 0)
        full_count += tl.sum(full.to(tl.int32), 0)

    tl.store(partial_count_ptr + row, partial_count)
    tl.store(full_count_ptr + row, full_count)


"""What torch computes around the kernels of a variant."""

import torch

from attncc.runtime.steps import add_at, hold

FLOAT = torch.float32


def statistics(captures, parameters, batch, heads, q_len, kv_len, device):
    """What tiles are judged by, at every position: tensors that broadcast to [B, Hq, Lq, 1] or [B, Hq, 1, Lkv]."""
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    return [
        doc_ids[hold(b, doc_ids, 0), hold(kv_idx, doc_ids, 1)],
        doc_ids[hold(b, doc_ids, 0), hold(q_idx, doc_ids, 1)],
    ]


def collect(sums, captures, parameters, batch, heads, q_len, kv_len, device):
    """Gradients of the captures, in float32, from the sums that kernels made.

    Sums are [B, Hq, Lq, 1] over keys, [B, Hq, 1, Lkv] over queries, or [B, Hq, Lq + Lkv - 1, 1] along diagonals.
    """
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    distance = (torch.arange(q_len + kv_len - 1, device=device) - (kv_len - 1))[:, None]
    return [totals]


def add_pairs(totals, pairs, first, captures, parameters, batch, heads, q_len, kv_len, device):
    """Add the shares [B, Hq, rows, Lkv] of the queries from `first` to the gradients of the captures."""
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[:, None, None]
    q_idx = torch.arange(q_len, device=device)[:, None]
    kv_idx = torch.arange(kv_len, device=device)
    doc_ids = captures[0]
    q_idx = torch.arange(first, min(first + pairs[0].shape[2], q_len), device=device)[:, None]

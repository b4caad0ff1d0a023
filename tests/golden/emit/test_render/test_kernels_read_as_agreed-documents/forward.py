"""documents: attention in tiles.

    attn 1
    attention documents:
      capture doc_ids: int[batch, q_len]
      mask = q_idx >= kv_idx and doc_ids[b, q_idx] == doc_ids[b, kv_idx]

Schedule:
- tile_q = 128: low tiles follow the visible keys
- tile_kv = 64: visited neighbours run as one matrix product
- scores_per_step = 1048576: heads and neighbouring tiles run as one product up to this size
"""

import torch

from attncc.runtime.steps import empty_like, head_groups, hold, in_parallel, steps
from attncc.runtime.tables import Rules
from attncc.runtime.visited import Tiles

FLOAT = torch.float32  # scores and sums
TILE_Q, TILE_KV = 128, 64
SCORES = 1048576  # that one step holds
NEG_INF = float("-inf")
LOG2E, LN2 = 1.4426950408889634, 0.6931471805599453  # scores are in base 2, whose powers are faster than those of e


def tiles(sizes, captures, parameters, b, h):
    """What tells the tiles of one sequence and head: statistics at each position, and tests of tiles by their ends."""
    batch, heads, q_len, kv_len = sizes
    b = torch.tensor(b)
    doc_ids = captures[0]
    device = doc_ids.device
    q_all = torch.arange(q_len, device=device)
    kv_all = torch.arange(kv_len, device=device)

    def judge(q_min, q_max, kv_min, kv_max, extremes):
        """Whether any pair of a tile may be visible, and whether all are."""
        key_least, key_most, _ = extremes[0]
        query_least, query_most, _ = extremes[1]
        visit = (q_max >= kv_min) & (key_most >= query_least) & (query_most >= key_least)
        full = (q_min >= kv_max) & (query_least >= key_most) & (key_least >= query_most)
        return visit, full

    def reach(q_min, q_max, kv_min, kv_max, extremes):
        """Along ascending keys: since when and until when tiles are visited, and are full."""
        key_least, key_most, _ = extremes[0]
        query_least, query_most, _ = extremes[1]
        visit_since = key_most >= query_least
        visit_until = (q_max >= kv_min) & (query_most >= key_least)
        full_since = key_least >= query_most
        full_until = (q_min >= kv_max) & (query_least >= key_most)
        return visit_since, visit_until, full_since, full_until

    values = [
        ("kv", doc_ids[hold(b, doc_ids, 0), hold(kv_all, doc_ids, 1)].to(torch.int64)),
        ("q", doc_ids[hold(b, doc_ids, 0), hold(q_all, doc_ids, 1)].to(torch.int64)),
    ]
    return Rules(device, values, judge, reach, exact=True)


def forward(q, k, v, captures, parameters, scale, check_bounds):
    """out [B, H, Lq, Dv], lse [B, H, Lq] and each row's largest score and sum of exp(score - largest), for `backward`.

    Shapes: q [B, H, Lq, D], k [B or 1, Hkv, Lkv, D], v [B or 1, Hkv, Lkv, Dv].
    """
    (batch, heads, q_len, head_dim), (kv_len, value_dim) = q.shape, v.shape[2:]
    device = q.device
    out = empty_like(q, value_dim)
    lse, largest, sums = (torch.empty(batch, heads, q_len, dtype=FLOAT, device=device) for _ in range(3))
    doc_ids = captures[0]
    visited = Tiles(tiles, (batch, heads, q_len, kv_len), TILE_Q, TILE_KV, captures, parameters, reads=(0,))
    groups = head_groups(q, k, TILE_Q, SCORES, owners=False, by_batch=True, by_head=False)

    def run(groups):
        for group in groups:
            b_range, h_range, kv_b, kv_h = group
            q_group, out_group = q[b_range, h_range], out[b_range, h_range]
            keys, values = k[kv_b, kv_h], v[kv_b, kv_h]
            shape, products = q_group.shape[:2], keys.shape[0] * keys.shape[1]  # [B, H] of this group; B * Hkv
            columns = max(TILE_KV, SCORES // (shape[0] * shape[1] * TILE_Q))
            buffer = torch.empty(shape[0] * shape[1] * min(TILE_Q, q_len) * min(columns, kv_len), dtype=FLOAT, device=device)
            b = torch.arange(b_range.start, b_range.stop, device=device)[:, None, None, None]
            for q0, row in visited.rows(b_range.start, 0):
                q1 = min(q0 + TILE_Q, q_len)
                queries = (q_group[:, :, q0:q1].to(FLOAT) * (scale * LOG2E)).reshape(products, -1, head_dim)  # [B * Hkv, G * rows, D]
                top = queries.new_full((*queries.shape[:2], 1), NEG_INF)  # largest score of each row so far
                total = torch.zeros_like(top)  # sum of exp(score - top)
                weighted = queries.new_zeros(*queries.shape[:2], value_dim)  # sum of exp(score - top) * value
                q_idx = torch.arange(q0, q1, device=device)[:, None]
                query_doc_ids = doc_ids[b, q_idx].to(torch.int64)  # <string>:4
                for kv0, kv1, partial in steps(row, TILE_KV, columns, kv_len):
                    tile = buffer[: queries.shape[0] * queries.shape[1] * (kv1 - kv0)].view(*queries.shape[:2], -1)
                    torch.bmm(queries, keys[:, :, kv0:kv1].to(FLOAT).reshape(products, -1, head_dim).mT, out=tile)
                    score = tile.view(*shape, q1 - q0, kv1 - kv0)  # [B, H, rows, n]
                    for kv_from, kv_to in partial:
                        kv_cut = torch.arange(kv_from, kv_to, device=device)
                        score[..., kv_from - kv0 : kv_to - kv0].masked_fill_(~((q_idx >= kv_cut) & (query_doc_ids == doc_ids[b, kv_cut].to(torch.int64))), NEG_INF)
                    weights = score.reshape(*queries.shape[:2], -1)
                    peak = torch.maximum(top, weights.amax(-1, keepdim=True))
                    shift = peak.masked_fill(peak == NEG_INF, 0.0)  # a row that has seen no key stays at -inf
                    decay = torch.exp2(top - shift)
                    weights.sub_(shift).exp2_()
                    total.mul_(decay).add_(weights.sum(-1, keepdim=True))
                    weighted.mul_(decay).baddbmm_(weights, values[:, :, kv0:kv1].to(FLOAT).reshape(products, -1, value_dim))
                    top = peak
                weighted.div_(total).masked_fill_(total == 0.0, 0.0)  # a row without a visible key gives 0
                out_group[:, :, q0:q1] = weighted.view(*shape, q1 - q0, value_dim)
                rows = (b_range, h_range, slice(q0, q1))
                largest[rows], sums[rows] = top.view(*shape, -1), total.view(*shape, -1)
                lse[rows] = top.add_(total.log2_()).mul_(LN2).view(*shape, -1)
    in_parallel(run, groups)
    return out, lse, largest, sums

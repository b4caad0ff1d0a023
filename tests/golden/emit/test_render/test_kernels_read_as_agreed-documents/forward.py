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

from attncc.runtime.steps import block_bounds, empty_like, head_groups, hold, in_parallel, steps
FLOAT = torch.float32  # scores and sums
TILE_Q, TILE_KV = 128, 64
SCORES = 1048576  # that one step holds
NEG_INF = float("-inf")
LOG2E, LN2 = 1.4426950408889634, 0.6931471805599453  # scores are in base 2, whose powers are faster than those of e
def forward(q, k, v, captures, parameters, scale, check_bounds):
    """out [B, H, Lq, Dv], lse [B, H, Lq] and each row's largest score and sum of exp(score - largest), for `backward`.

    Shapes: q [B, H, Lq, D], k [B or 1, Hkv, Lkv, D], v [B or 1, Hkv, Lkv, Dv].
    """
    (batch, heads, q_len, head_dim), (kv_len, value_dim) = q.shape, v.shape[2:]
    device = q.device
    out = empty_like(q, value_dim)
    lse, largest, sums = (torch.empty(batch, heads, q_len, dtype=FLOAT, device=device) for _ in range(3))
    doc_ids = captures[0]
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
            kv_min = torch.arange(0, kv_len, TILE_KV, device=device)
            kv_max = (torch.arange(0, kv_len, TILE_KV, device=device) + (TILE_KV - 1)).clamp(max=kv_len - 1)
            q_all = torch.arange(q_len, device=device)
            kv_all = torch.arange(kv_len, device=device)
            key_least, key_most, key_nan = block_bounds(doc_ids[hold(b, doc_ids, 0), hold(kv_all, doc_ids, 1)].to(torch.int64), TILE_KV, kv_len)
            query_least, query_most, query_nan = block_bounds(doc_ids[hold(b, doc_ids, 0), hold(q_all, doc_ids, 1)].to(torch.int64), TILE_Q, q_len)
            for q0 in range(0, q_len, TILE_Q):
                q1 = min(q0 + TILE_Q, q_len)
                queries = (q_group[:, :, q0:q1].to(FLOAT) * (scale * LOG2E)).reshape(products, -1, head_dim)  # [B * Hkv, G * rows, D]
                top = queries.new_full((*queries.shape[:2], 1), NEG_INF)  # largest score of each row so far
                total = torch.zeros_like(top)  # sum of exp(score - top)
                weighted = queries.new_zeros(*queries.shape[:2], value_dim)  # sum of exp(score - top) * value
                q_idx = torch.arange(q0, q1, device=device)[:, None]
                q_min = torch.tensor(q0)
                q_max = torch.tensor(q1 - 1)
                query_doc_ids = doc_ids[b, q_idx].to(torch.int64)  # <string>:4
                common_holds = (q_max >= kv_min) & (key_most >= query_least[q0 // TILE_Q]) & (query_most[q0 // TILE_Q] >= key_least)
                common_holds_2 = (q_min >= kv_max) & (query_least[q0 // TILE_Q] >= key_most) & (key_least >= query_most[q0 // TILE_Q])
                visit = common_holds
                full = common_holds_2
                for kv0, kv1, partial in steps(visit, full, TILE_KV, columns, kv_len):
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

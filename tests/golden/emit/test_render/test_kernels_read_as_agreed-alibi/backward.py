"""alibi: gradients of attention in tiles.

    attn 1
    attention alibi(window: int = 256):
      capture slopes: float[heads]
      distance = q_idx - kv_idx
      mask = distance >= 0 and distance < window
      score = score - slopes[h] * distance

Schedule:
- tile_q = 128: low tiles follow the visible keys
- tile_kv = 64: visited neighbours run as one matrix product
- scores_per_step = 1048576: heads and neighbouring tiles run as one product up to this size
"""

import torch

from attncc.runtime.steps import add_at, empty_like, head_groups, in_parallel, steps
from attncc.runtime.tables import Rules
from attncc.runtime.visited import Tiles

FLOAT = torch.float32  # scores and sums
TILE_Q, TILE_KV = 128, 64
SCORES = 1048576  # that one step holds
NEG_INF = float("-inf")
LOG2E = 1.4426950408889634  # weights are powers of 2, which are faster than those of e


def tiles(sizes, captures, parameters, b, h):
    """What tells the tiles of one sequence and head: statistics at each position, and tests of tiles by their ends."""
    window = torch.tensor(parameters[0])
    device = torch.device("cpu")

    def judge(q_min, q_max, kv_min, kv_max, extremes):
        """Whether any pair of a tile may be visible, and whether all are."""
        visit = (window > 0) & (kv_max + window > q_min) & (q_max >= kv_min)
        full = (q_min >= kv_max) & (kv_min + window > q_max)
        return visit, full

    def reach(q_min, q_max, kv_min, kv_max, extremes):
        """Along ascending keys: since when and until when tiles are visited, and are full."""
        visit_since = (window > 0) & (kv_max + window > q_min)
        visit_until = q_max >= kv_min
        full_since = kv_min + window > q_max
        full_until = q_min >= kv_max
        return visit_since, visit_until, full_since, full_until

    return Rules(device, [], judge, reach, exact=True)


def backward(grad_out, grad_lse, q, k, v, out, largest, sums, captures, parameters, scale):
    """Gradients of q, k, v, slopes, by recomputing the scores tile by tile."""
    (batch, heads, q_len, head_dim), (kv_len, value_dim) = q.shape, v.shape[2:]
    device = q.device
    grad_q = empty_like(q, head_dim)
    grad_k = torch.zeros(k.shape, dtype=FLOAT, device=device)
    grad_v = torch.zeros(v.shape, dtype=FLOAT, device=device)
    slopes = captures[0]
    window = torch.tensor(parameters[0])
    visited = Tiles(tiles, (batch, heads, q_len, kv_len), TILE_Q, TILE_KV, captures, parameters)
    groups = head_groups(q, k, TILE_Q, SCORES, owners=True, by_batch=False, by_head=False)

    def run(groups):
        grad_slopes = torch.zeros(captures[0].shape, dtype=FLOAT, device=device)
        for group in groups:
            b_range, h_range, kv_b, kv_h = group
            keys, values = k[kv_b, kv_h], v[kv_b, kv_h]
            shape, products = q[b_range, h_range].shape[:2], keys.shape[0] * keys.shape[1]  # [B, H] of this group; B * Hkv
            columns = max(TILE_KV, SCORES // (shape[0] * shape[1] * TILE_Q))
            step_size = shape[0] * shape[1] * min(TILE_Q, q_len) * min(columns, kv_len)
            buffer = torch.empty(step_size, dtype=FLOAT, device=device)
            flow_buffer = torch.empty(step_size, dtype=FLOAT, device=device)
            grad_keys = grad_k[kv_b, kv_h].view(products, kv_len, head_dim)
            grad_values = grad_v[kv_b, kv_h].view(products, kv_len, value_dim)
            h = torch.arange(h_range.start, h_range.stop, device=device)[:, None, None]
            head_slopes = slopes[h]  # <string>:6
            for q0, row in visited.rows(0, 0):
                q1 = min(q0 + TILE_Q, q_len)
                queries = (q[b_range, h_range, q0:q1].to(FLOAT) * scale).reshape(products, -1, head_dim)  # [B * Hkv, G * rows, D]
                rows = (b_range, h_range, slice(q0, q1))
                total = sums[rows][..., None]
                share = torch.where(total == 0.0, 0.0, 1.0 / total)  # weights below are exp(score - largest): exact for any lse
                grad_rows = grad_out[rows].to(FLOAT)
                delta = (grad_rows * out[rows]).sum(-1, keepdim=True) - grad_lse[rows][..., None]
                delta = delta.mul_(share).reshape(products, -1, 1)
                grad_rows = grad_rows.mul(share).reshape(products, -1, value_dim)
                top = largest[rows].reshape(products, -1, 1)
                top = top.masked_fill(top == NEG_INF, -NEG_INF)  # a row without a visible key has weights 0
                grad_queries = torch.zeros_like(queries)
                q_idx = torch.arange(q0, q1, device=device)[:, None]
                for kv0, kv1, partial in steps(row, TILE_KV, columns, kv_len):
                    kv_idx = torch.arange(kv0, kv1, device=device)
                    tile_shape = (*queries.shape[:2], kv1 - kv0)  # [B * Hkv, G * rows, n]
                    tile = buffer[: tile_shape[0] * tile_shape[1] * tile_shape[2]].view(tile_shape)
                    tile_keys = keys[:, :, kv0:kv1].to(FLOAT).reshape(products, -1, head_dim)
                    torch.bmm(queries, tile_keys.mT, out=tile)
                    score = tile.view(*shape, q1 - q0, kv1 - kv0)  # [B, H, rows, n]
                    distance = q_idx - kv_idx  # <string>:4
                    pair_number = distance.to(FLOAT)
                    score.sub_(head_slopes * pair_number)  # <string>:6
                    weights = score.reshape(tile_shape).sub_(top).mul_(LOG2E).exp2_()
                    pairs = weights.view(score.shape)
                    for kv_from, kv_to in partial:
                        kv_cut = torch.arange(kv_from, kv_to, device=device)
                        distance_2 = q_idx - kv_cut  # <string>:4
                        pairs[..., kv_from - kv0 : kv_to - kv0].masked_fill_(~((q_idx >= kv_cut) & (distance_2 < window)), 0.0)
                    grad_values[:, kv0:kv1].baddbmm_(weights.mT, grad_rows)
                    flow = flow_buffer[: weights.numel()].view(tile_shape)
                    tile_values = values[:, :, kv0:kv1].to(FLOAT).reshape(products, -1, value_dim)
                    torch.bmm(grad_rows, tile_values.mT, out=flow)
                    flow.sub_(delta).mul_(weights)  # gradient of the modified scores
                    grad_score = flow.view(score.shape)
                    add_at(grad_slopes, (h,), (grad_score.sum((0,), keepdim=True) * (-pair_number)).sum((2, 3), keepdim=True))
                    grad_keys[:, kv0:kv1].baddbmm_(flow.mT, queries)
                    grad_queries.baddbmm_(flow, tile_keys)
                grad_q[b_range, h_range, q0:q1] = grad_queries.mul_(scale).view(*shape, q1 - q0, head_dim)
        return [grad_slopes]
    [grad_slopes] = in_parallel(run, groups, copied=captures[0].numel())
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), [grad_slopes.to(captures[0].dtype)]

"""relative: gradients of attention in tiles.

    attn 1
    attention relative:
      capture table: float[heads, _]
      score = 20.0 * tanh((score + table[h, q_idx - kv_idx + 255]) / 20.0)

Schedule:
- tile_q = 256: no tile can be skipped, so that long matrix products pay
- tile_kv = 128: visited neighbours run as one matrix product
- scores_per_step = 1048576: heads and neighbouring tiles run as one product up to this size
"""

import torch

from attncc.runtime.steps import add_at, empty_like, gather, head_groups, in_parallel, steps
from attncc.runtime.visited import AllTiles

FLOAT = torch.float32  # scores and sums
TILE_Q, TILE_KV = 256, 128
SCORES = 1048576  # that one step holds
NEG_INF = float("-inf")
LOG2E = 1.4426950408889634  # weights are powers of 2, which are faster than those of e


def backward(grad_out, grad_lse, q, k, v, out, largest, sums, captures, parameters, scale):
    """Gradients of q, k, v, table, by recomputing the scores tile by tile."""
    (batch, heads, q_len, head_dim), (kv_len, value_dim) = q.shape, v.shape[2:]
    device = q.device
    grad_q = empty_like(q, head_dim)
    grad_k = torch.zeros(k.shape, dtype=FLOAT, device=device)
    grad_v = torch.zeros(v.shape, dtype=FLOAT, device=device)
    table = captures[0]
    visited = AllTiles((batch, heads, q_len, kv_len), TILE_Q, TILE_KV)
    groups = head_groups(q, k, TILE_Q, SCORES, owners=True, by_batch=False, by_head=False)

    def run(groups):
        grad_table = torch.zeros(captures[0].shape, dtype=FLOAT, device=device)
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
                    pair_sum = q_idx - kv_idx + 255  # <string>:4
                    score.add_(gather(table, h, pair_sum))  # <string>:4
                    score.div_(20.0)  # <string>:4
                    score.tanh_()  # <string>:4
                    score_product = score * 20.0
                    score_product_2 = score * score
                    score_difference = 1.0 - score_product_2
                    weights = score_product.reshape(tile_shape).sub_(top).mul_(LOG2E).exp2_()
                    grad_values[:, kv0:kv1].baddbmm_(weights.mT, grad_rows)
                    flow = flow_buffer[: weights.numel()].view(tile_shape)
                    tile_values = values[:, :, kv0:kv1].to(FLOAT).reshape(products, -1, value_dim)
                    torch.bmm(grad_rows, tile_values.mT, out=flow)
                    flow.sub_(delta).mul_(weights)  # gradient of the modified scores
                    grad_score = flow.view(score.shape)
                    add_at(grad_table, (h, pair_sum,), (grad_score * score_difference).sum((0,), keepdim=True))
                    grad_score.mul_(score_difference)
                    grad_keys[:, kv0:kv1].baddbmm_(flow.mT, queries)
                    grad_queries.baddbmm_(flow, tile_keys)
                grad_q[b_range, h_range, q0:q1] = grad_queries.mul_(scale).view(*shape, q1 - q0, head_dim)
        return [grad_table]
    [grad_table] = in_parallel(run, groups, copied=captures[0].numel())
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), [grad_table.to(captures[0].dtype)]

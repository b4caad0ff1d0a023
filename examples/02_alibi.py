"""A score function may read tensors around it; those that require gradients get them."""

import torch

import attncc

slopes = torch.nn.Parameter(2.0 ** -torch.arange(1.0, 5.0))


def alibi(score, b, h, q_idx, kv_idx):
    return score - slopes[h] * (q_idx - kv_idx)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


attention = attncc.compile(score_mod=alibi, mask_mod=causal, name="alibi")

q, k, v = (torch.randn(2, 4, 300, 32) for _ in range(3))
out, lse = attention(q, k, v, return_lse=True)
(out.square().mean() + lse.mean()).backward()
print("gradient of the slopes:", [round(g, 4) for g in slopes.grad.tolist()])

ours, slopes.grad = slopes.grad, None
out, lse = attention(q, k, v, return_lse=True, backend="reference")
(out.square().mean() + lse.mean()).backward()
assert torch.allclose(ours, slopes.grad, rtol=1e-3, atol=1e-5)
print("agrees with autograd through the dense reference")

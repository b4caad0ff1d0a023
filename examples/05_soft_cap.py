"""Scores bent by tanh, under grouped queries: eight query heads share two key heads."""

import torch

import attncc

cap = 30.0


def soft_cap(score, b, h, q_idx, kv_idx):
    return cap * torch.tanh(score / cap)


attention = attncc.compile(score_mod=soft_cap, mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, name="soft_cap")

q = torch.randn(1, 8, 500, 64, requires_grad=True)
k, v = (torch.randn(1, 2, 500, 64, requires_grad=True) for _ in range(2))
out = attention(q, k, v, scale=1.0)
(ours,) = torch.autograd.grad(out.square().sum(), k)
(expected,) = torch.autograd.grad(attention(q, k, v, scale=1.0, backend="reference").square().sum(), k)
assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3)
print("gradient of k", list(ours.shape), "agrees with the dense reference")

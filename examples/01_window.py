"""A mask is a function of positions; attncc finds the tiles that it leaves empty, and the gradients."""

import torch

import attncc

window = 256


def nearby(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < window)


attention = attncc.compile(mask_mod=nearby)

q, k, v = (torch.randn(1, 4, 2048, 64, requires_grad=True) for _ in range(3))
out = attention(q, k, v)
out.sum().backward()

print("out", list(out.shape), "gradient of q", list(q.grad.shape))
tiles = attention.explain(q, k, v).tiles
print(f"visited {tiles.visited} of {tiles.total} tiles")

# The reference computes every pair: it says what is right, not what is fast.
expected = attention(q, k, v, backend="reference")
assert torch.allclose(out, expected, atol=1e-5)
print("agrees with the dense reference")

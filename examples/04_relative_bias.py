"""A learned bias for each head and distance; its gradient is summed in a fixed order, without atomics."""

import torch

import attncc

heads, reach = 4, 32
table = torch.nn.Parameter(torch.randn(heads, 2 * reach + 1) * 0.1)


def relative_bias(score, b, h, q_idx, kv_idx):
    distance = torch.clamp(q_idx - kv_idx, -reach, reach)
    return score + table[h, distance + reach]


attention = attncc.compile(score_mod=relative_bias)

q, k, v = (torch.randn(2, heads, 200, 16) for _ in range(3))
gradients = []
for _ in range(2):
    table.grad = None
    attention(q, k, v).square().sum().backward()
    gradients.append(table.grad)
assert torch.equal(*gradients)
print("gradient of the table:", list(table.grad.shape), "the same bits twice")

table.grad = None
attention(q, k, v, backend="reference").square().sum().backward()
assert torch.allclose(gradients[0], table.grad, rtol=1e-3, atol=1e-4)
print("agrees with the dense reference")

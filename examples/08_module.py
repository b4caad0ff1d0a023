"""Attention inside a module: parameters are read in each call, so that training, copying and moving just work."""

import copy

import torch
from torch import nn

import attncc


class Attention(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.temperature = nn.Parameter(torch.ones(heads))

    def heat(self, score, b, h, q_idx, kv_idx):
        return score / self.temperature[h]

    def forward(self, x):
        q, k, v = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = attncc.attention(q, k, v, score_mod=self.heat, mask_mod=causal)
        return out.transpose(1, 2).flatten(2)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


torch.manual_seed(0)
module = Attention(heads=4, width=64)
x, target = torch.randn(2, 100, 64), torch.randn(2, 100, 64)
optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
losses = []
for _ in range(10):
    loss = (module(x) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, temperatures {module.temperature.detach().numpy().round(3)}")

attention = attncc.compile(module.heat, causal, name="heat")  # the same as an object, to look at
print(attention.text)

twin = copy.deepcopy(module)
with torch.no_grad():
    twin.temperature.mul_(3.0)
assert not torch.allclose(twin(x), module(x))
print("a copy has temperatures of its own")

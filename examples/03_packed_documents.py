"""Several documents in one sequence: a captured tensor says which position belongs to which."""

import torch

import attncc

lengths = [700, 300, 24, 1024]
document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]  # [batch, length]


def same_document(b, h, q_idx, kv_idx):
    return (document[b, q_idx] == document[b, kv_idx]) & (q_idx >= kv_idx)


attention = attncc.compile(mask_mod=same_document)

q, k, v = (torch.randn(1, 4, sum(lengths), 32) for _ in range(3))
tiles = attention.explain(q, k, v).tiles
print(f"{len(lengths)} documents: visited {tiles.visited} of {tiles.total} tiles, {tiles.full} of them without a mask")

# The same as one causal attention for each document.
parts = [attncc.compile(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)] * len(lengths)
pieces = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
expected = torch.cat([part(*piece) for part, piece in zip(parts, pieces, strict=True)], dim=2)
assert torch.allclose(attention(q, k, v), expected, atol=1e-5)
print("the same as one attention for each document")

# A new batch brings a new tensor in the same variable: nothing is compiled again.
document = torch.zeros_like(document)
assert attention.explain(q, k, v).tiles.visited > tiles.visited

"""What attncc does, and why: the explanation, the generated code and a picture."""

import torch

import attncc

sinks, window = 4, 512


def sinks_and_window(b, h, q_idx, kv_idx):
    near = (q_idx - kv_idx < window) | (kv_idx < sinks)
    return (q_idx >= kv_idx) & near


attention = attncc.compile(mask_mod=sinks_and_window)
q, k, v = (torch.randn(1, 4, 4096, 64) for _ in range(3))

print(attention.explain(q, k, v))
print()
print("\n".join(attention.source(q, k, v).split("\n")[:30]))
print("...")
print("wrote", attention.plot(4096, 4096, "sinks_and_window.png"))

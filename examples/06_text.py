"""A variant as text: data that can be stored, reviewed and sent, and that never runs code."""

from pathlib import Path

import torch

import attncc

attention = attncc.load(Path(__file__).with_name("06_text.attn"))
print(attention.text)

slopes = 2.0 ** -torch.arange(1.0, 5.0)
q, k, v = (torch.randn(1, 4, 600, 32) for _ in range(3))
wide = attention(q, k, v, slopes=slopes)
narrow = attention(q, k, v, slopes=slopes, window=16)  # an int parameter is an argument of the kernel
print("a narrower window changes the result:", not torch.equal(wide, narrow))

try:
    attention(q, k, v, slope=slopes)
except attncc.InputError as error:
    print(error)

try:
    attncc.loads("attention broken():\n  mask = q_idx >= kv_idy\n")
except attncc.LanguageError as error:
    print(error)

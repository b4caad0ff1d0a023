"""Small inputs and functions for tests of the face; what is right is said by the dense reference."""

import torch

WINDOW = """\
attn 1
attention windowed_alibi(window: int = 16):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0 and distance < window
  score = score - slopes[h] * distance
"""


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def halve(score, b, h, q_idx, kv_idx):
    return 0.5 * score


def inputs(q=(2, 4, 33, 8), kv_heads=2, kv_len=None, value_dim=8, dtype=torch.float32, grad=False):
    batch, _, q_len, head_dim = q
    kv = (batch, kv_heads, q_len if kv_len is None else kv_len)
    shapes = (q, (*kv, head_dim), (*kv, value_dim))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes)


def agree(one, other, factor=1.0):
    """Equal as far as float32 or better allows; both may be pairs."""
    torch.testing.assert_close(one, other, rtol=1e-5 * factor, atol=1e-5 * factor)

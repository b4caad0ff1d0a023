"""A mistake, and what its author reads."""

import torch


def mask_mod(b, h, q_idx, kv_idx):
    return torch.where(q_idx >= kv_idx, 0.0, -float("inf"))

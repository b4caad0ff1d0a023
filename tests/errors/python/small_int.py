"""A mistake, and what its author reads."""

import torch


def mask_mod(b, h, q_idx, kv_idx):
    return q_idx.to(torch.int8) >= kv_idx

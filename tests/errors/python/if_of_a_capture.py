"""A mistake, and what its author reads."""

import torch

causal = torch.tensor(True)


def mask_mod(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx if causal else q_idx >= 0

"""A mistake, and what its author reads."""

import torch

positions = torch.ones(64, 3)


def score_mod(score, b, h, q_idx, kv_idx):
    values, _ = torch.max(positions[q_idx], dim=0)
    return score + values[0]

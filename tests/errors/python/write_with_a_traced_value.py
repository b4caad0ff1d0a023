"""A mistake, and what its author reads."""

import torch

seen = torch.zeros(64)


def score_mod(score, b, h, q_idx, kv_idx):
    seen[0] = score
    return score

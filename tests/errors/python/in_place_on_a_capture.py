"""A mistake, and what its author reads."""

import torch

slopes = torch.ones(8)


def score_mod(score, b, h, q_idx, kv_idx):
    slopes.clamp_(min=0.0)
    return score * slopes[h]

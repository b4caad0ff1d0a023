"""A mistake, and what its author reads."""

import torch

bias = torch.ones(8, 4096)


def score_mod(score, b, h, q_idx, kv_idx):
    return score + bias[h]

"""A mistake, and what its author reads."""

import torch

slopes = torch.ones(8)


def score_mod(score, b, h, q_idx, kv_idx):
    return score + slopes[:h].sum()

"""A mistake, and what its author reads."""

import torch


def score_mod(score, b, h, q_idx, kv_idx):
    return score + torch.arange(q_idx).sum()

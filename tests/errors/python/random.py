"""A mistake, and what its author reads."""

import torch


def score_mod(score, b, h, q_idx, kv_idx):
    return torch.where(torch.rand(()) < 0.1, score, 0.0)

"""A mistake, and what its author reads."""

import torch

table = torch.ones(64)


def score_mod(score, b, h, q_idx, kv_idx):
    return score + table[q_idx >= kv_idx]

"""A mistake, and what its author reads."""

import torch


def score_mod(score, b, h, q_idx, kv_idx):
    with torch.no_grad():
        gate = torch.sigmoid(score)
    return score * gate

"""A mistake, and what its author reads."""

import torch

bias = torch.eye(64).to_sparse()


def score_mod(score, b, h, q_idx, kv_idx):
    return score + bias[q_idx, kv_idx]

"""A mistake, and what its author reads."""

import torch

features = torch.ones(64, 128)


def score_mod(score, b, h, q_idx, kv_idx):
    return score + torch.dot(features[q_idx], features[kv_idx])

"""A mistake, and what its author reads."""

import torch

gain = torch.ones(1)


def score_mod(score, b, h, q_idx, kv_idx):
    return score * gain

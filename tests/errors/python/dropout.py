"""A mistake, and what its author reads."""

import torch.nn.functional as F


def score_mod(score, b, h, q_idx, kv_idx):
    return F.dropout(score, 0.1)

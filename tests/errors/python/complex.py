"""A mistake, and what its author reads."""

import torch

phase = torch.ones(64, dtype=torch.complex64)


def score_mod(score, b, h, q_idx, kv_idx):
    return score + phase[q_idx].real

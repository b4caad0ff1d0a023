"""A mistake, and what its author reads."""

import torch

scratch = torch.ones(8)


def score_mod(score, b, h, q_idx, kv_idx):
    return score * torch.exp(scratch, out=scratch)[h]

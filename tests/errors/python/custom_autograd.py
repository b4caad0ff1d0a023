"""A mistake, and what its author reads."""

import torch


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


def score_mod(score, b, h, q_idx, kv_idx):
    return Doubled.apply(score)

"""A mistake, and what its author reads."""

import math


def score_mod(score, b, h, q_idx, kv_idx):
    return score * math.exp(-abs(q_idx - kv_idx))

"""A mistake, and what its author reads."""

import numpy as np


def score_mod(score, b, h, q_idx, kv_idx):
    return np.tanh(score)

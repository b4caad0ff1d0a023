"""A mistake, and what its author reads."""

slopes = [0.5, 0.25, 0.125, 0.0625]


def score_mod(score, b, h, q_idx, kv_idx):
    return score - slopes[h] * (q_idx - kv_idx)

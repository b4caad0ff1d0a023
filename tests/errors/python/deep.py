"""A mistake, and what its author reads."""


def score_mod(score, b, h, q_idx, kv_idx):
    for _ in range(6000):
        score = score * 0.5 + 1.0
    return score

"""A mistake, and what its author reads."""


def score_mod(score, b, h, q_idx, kv_idx):
    for i in range(h):
        score = score + i
    return score

"""A mistake, and what its author reads."""


def score_mod(score, b, h, q_idx, kv_idx):
    while score > 1:
        score = score / 2
    return score

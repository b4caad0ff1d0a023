"""A mistake, and what its author reads."""


def score_mod(score, b, h, q_idx, kv_idx):
    score.backward()
    return score

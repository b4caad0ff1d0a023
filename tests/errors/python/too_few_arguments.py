"""A mistake, and what its author reads."""


def score_mod(score, q_idx, kv_idx):
    return score

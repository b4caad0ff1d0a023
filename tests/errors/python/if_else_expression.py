"""A mistake, and what its author reads."""


def score_mod(score, b, h, q_idx, kv_idx):
    return score if q_idx >= kv_idx else -score

"""A mistake, and what its author reads."""


def halved(x, times):
    return halved(x / 2, times - 1)


def score_mod(score, b, h, q_idx, kv_idx):
    return halved(score, 8)

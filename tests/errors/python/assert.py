"""A mistake, and what its author reads."""


def mask_mod(b, h, q_idx, kv_idx):
    assert q_idx >= 0, "positions count from 0"
    return q_idx >= kv_idx

"""A mistake, and what its author reads."""


def mask_mod(b, h, q_idx, kv_idx):
    q_idx += 0.5
    return q_idx >= kv_idx

"""A mistake, and what its author reads."""


def mask_mod(b, h, q_idx, kv_idx):
    if q_idx >= kv_idx:
        return b == 0
    return h == 0

"""A mistake, and what its author reads."""


def mask_mod(b, h, q_idx, kv_idx):
    return kv_idx < 4 or q_idx >= kv_idx

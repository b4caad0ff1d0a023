"""A mistake, and what its author reads."""


def mask_mod(b, h, q_idx, kv_idx):
    return not q_idx >= kv_idx

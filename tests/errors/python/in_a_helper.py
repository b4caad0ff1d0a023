"""A mistake, and what its author reads."""


def near(x, y):
    return x - y if x > y else y - x


def mask_mod(b, h, q_idx, kv_idx):
    return near(q_idx, kv_idx) < 8

"""A mistake, and what its author reads."""

mask_mod = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx and b == 0  # noqa: E731

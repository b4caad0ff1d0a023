"""Dense attention in float64 from the independent definitions, at the gallery's own examples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from attncc.variants.gallery import gallery
from tests.variants.biased import BIASED
from tests.variants.problem import At
from tests.variants.visible import VISIBLE

NAMES = list(gallery())
BATCH, HEADS, DIM = 2, 4, 16


def problem(name, length):
    """The independent definition's view of an entry's example."""
    entry = gallery()[name]
    sizes = entry.sizes(length, BATCH, HEADS)
    captures = entry.captures(sizes)
    arrays = {
        key: value.double().numpy() if value.is_floating_point() else value.numpy() for key, value in captures.items()
    }
    at = At(BATCH, HEADS, sizes.q_len, sizes.kv_len, SimpleNamespace(**arrays), SimpleNamespace(**sizes.parameters))
    return entry, sizes, captures, at


def expected_mask(name, at):
    """Which pairs are visible, [batch, heads, q_len, kv_len]."""
    seen = VISIBLE[name](at) if name in VISIBLE else np.ones((1, 1), dtype=bool)
    return np.broadcast_to(seen, (at.batch, at.heads, at.q_len, at.kv_len))


def expected_output(name, at, q, k, v):
    """Dense attention in float64 from the independent definitions; rows without a visible key give 0."""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    scores = BIASED[name](at, scores) if name in BIASED else scores
    scores = np.where(expected_mask(name, at), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0) @ v


def random_qkv(sizes, dtype=torch.float64):
    """Queries, keys and values with as many heads each."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((sizes.q_len, DIM), (sizes.kv_len, DIM), (sizes.kv_len, DIM))
    return [torch.randn(BATCH, HEADS, *shape, generator=generator, dtype=dtype) * 2 for shape in shapes]

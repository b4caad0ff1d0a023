"""What each variant of the gallery makes of a score, written again from its formula as plain NumPy.

`BIASED[name](at, s)` gives the new scores for scores s of shape [batch, heads, q_len, kv_len].
"""

from __future__ import annotations

import math

import numpy as np

from tests.variants.problem import per_head, per_key


def toeplitz(at, value):
    """value(h, i − j) for every head and pair, asked once for each distance."""
    table = np.array([[value(h, d) for d in range(1 - at.kv_len, at.q_len)] for h in range(at.heads)])
    return table[None, :, at.d + at.kv_len - 1]


def t5_bucket(relative, buckets, most):
    """The bucket of a relative position (key minus query), as T5 numbers them."""
    half, away = buckets // 2, abs(relative)
    base = half if relative > 0 else 0
    if away < half // 2:
        return base + away
    steps = math.floor(math.log(away / (half // 2)) / math.log(most / (half // 2)) * (half - half // 2))
    return base + min(half // 2 + steps, half - 1)


def neighborhood_bias(at, s):
    bias = np.zeros((at.heads, at.q_len, at.kv_len))
    most = at.p.window - 1
    for i in range(at.q_len):
        for j in range(at.kv_len):
            (y, x), (v, u) = divmod(i, at.p.width), divmod(j, at.p.width)
            down, right = (sorted((-most, offset, most))[1] for offset in (v - y, u - x))
            bias[:, i, j] = at.c.table[:, most + down, most + right]
    return s + bias[None]


def graph_distance_bias(at, s):
    bias = np.stack([[at.c.table[h][at.c.hops[b]] for h in range(at.heads)] for b in range(at.batch)])
    return s + bias


def adaptive_span(at, s):
    fade = np.clip((32.0 + per_head(at.c.span) - at.d) / 32.0, 0.0, 1.0)
    return s + np.log(fade, out=np.full_like(fade, -np.inf), where=fade > 0)


def key_reweighting(at, s):
    weights = per_key(at.c.weights, at)
    return s + np.log(weights, out=np.full_like(weights, -np.inf), where=weights > 0)


def foveal_bias(at, s):
    v, u = np.divmod(np.arange(at.kv_len), at.p.width)
    square = (u - at.c.gaze[:, :1]) ** 2 + (v - at.c.gaze[:, 1:]) ** 2
    return s + 4.0 * np.exp(-square / (2 * 6.0**2))[:, None, None, :]


def sandwich(at, s):
    return s + toeplitz(at, lambda h, d: at.c.waves[abs(d)] * at.heads / (8 * (h + 1)))


def forgetting(at, s):
    F = at.c.log_forget
    return s + F[:, :, : at.q_len, None] - F[:, :, None, :]


def alibi(at, s):
    return s + toeplitz(at, lambda h, d: -at.c.slopes[h] * d)


BIASED = {
    "alibi": alibi,
    "alibi_symmetric": lambda at, s: s + toeplitz(at, lambda h, d: -at.c.slopes[h] * abs(d)),
    "t5_bias": lambda at, s: s + toeplitz(at, lambda h, d: at.c.table[h, t5_bucket(-d, 32, 128)]),
    "clipped_relative_bias": lambda at, s: (
        s + toeplitz(at, lambda h, d: at.c.table[h, at.p.reach + max(-at.p.reach, min(at.p.reach, -d))])
    ),
    "relative_bias": lambda at, s: s + toeplitz(at, lambda h, d: at.c.table[h, at.q_len - 1 - d]),
    "pair_bias": lambda at, s: s + at.c.bias,
    "graph_distance_bias": graph_distance_bias,
    "forgetting": forgetting,
    "sandwich": sandwich,
    "kerple_log": lambda at, s: (
        s + toeplitz(at, lambda h, d: -at.c.strength[h] * math.log(1 + at.c.sharpness[h] * abs(d)))
    ),
    "gaussian_window": lambda at, s: s + toeplitz(at, lambda h, d: -(d**2) / (2 * at.c.width[h] ** 2)),
    "key_reweighting": key_reweighting,
    "soft_cap": lambda at, s: 30.0 * np.tanh(s / 30.0),
    "head_temperature": lambda at, s: s * per_head(at.c.temperature),
    "scalable_softmax": lambda at, s: s * per_head(at.c.strength) * np.log(at.i + 1.0),
    "adaptive_span": adaptive_span,
    "neighborhood_bias": neighborhood_bias,
    "foveal_bias": foveal_bias,
    "packed_window_alibi": alibi,
    "windowed_soft_cap": lambda at, s: 30.0 * np.tanh(s / 30.0),
    "capped_alibi": lambda at, s: alibi(at, 30.0 * np.tanh(s / 30.0)),
    "capped_temperature": lambda at, s: 30.0 * np.tanh(s * per_head(at.c.temperature) / 30.0),
}

"""Score and mask functions as people write them for FlexAttention."""

from __future__ import annotations

import torch


def identity(score, b, h, q, kv):
    return score


def causal_score(score, b, h, q, kv):
    return torch.where(q >= kv, score, float("-inf"))


def inverse_causal(score, b, h, q, kv):
    return torch.where(q <= kv, score, float("-inf"))


def rel_bias(score, b, h, q, kv):
    return score + (q - kv)


def rel_causal_bias(score, b, h, q, kv):
    return torch.where(q >= kv, score + (q - kv), float("-inf"))


def times_two(score, b, h, q, kv):
    return score * 2


def squared(score, b, h, q, kv):
    return score * score


def trig(score, b, h, q, kv):
    return torch.sin(torch.cos(score)) + torch.tan(b)


def trig_of_positions(score, b, h, q, kv):
    return torch.cos(score) * torch.sin(q) + torch.tan(b) - torch.cos(kv) * h


def alibi(heads):
    def bias(score, b, h, q, kv):
        return score + (kv - q) * torch.exp2(-((h + 1) * 8.0 / heads))

    return bias


SCORES = {
    "identity": identity,
    "times two": times_two,
    "squared": squared,
    "causal": causal_score,
    "inverse causal": inverse_causal,
    "relative bias": rel_bias,
    "relative causal bias": rel_causal_bias,
    "alibi": alibi(4),
    "trig": trig,
    "trig of positions": trig_of_positions,
}


def causal(b, h, q, kv):
    return q >= kv


def window(size):
    def within(b, h, q, kv):
        return (q >= kv) & (q - kv <= size)

    return within

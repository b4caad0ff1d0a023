"""The problem that an independent definition is asked about: index grids, sizes, captures and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np


@dataclass
class At:
    """A problem: index grids that broadcast to [batch, heads, q_len, kv_len], sizes, captures and parameters."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    c: SimpleNamespace  # NumPy arrays
    p: SimpleNamespace  # ints

    def __post_init__(self):
        self.b = np.arange(self.batch)[:, None, None, None]
        self.h = np.arange(self.heads)[None, :, None, None]
        self.i = np.arange(self.q_len)[:, None]
        self.j = np.arange(self.kv_len)[None, :]
        self.d = self.i - self.j

    def pairs(self, rule):
        """rule(i, j) for every pair, in plain Python."""
        return np.array([[bool(rule(i, j)) for j in range(self.kv_len)] for i in range(self.q_len)])


def causal(at):
    return np.tril(np.ones((at.q_len, at.kv_len), dtype=bool))


def band(at, below, above):
    """Keys at most `below` before and `above` after the query."""
    ones = np.ones((at.q_len, at.kv_len), dtype=bool)
    return np.tril(ones, above) & np.triu(ones, -below)


def per_key(values, at):
    """[batch, kv_len] as a row of keys."""
    return values[:, None, None, : at.kv_len]


def per_query(values, at):
    """[batch, kv_len] as a column of queries."""
    return values[:, None, : at.q_len, None]


def per_head(values):
    """[heads] beside [batch, heads, q_len, kv_len]."""
    return values[None, :, None, None]
